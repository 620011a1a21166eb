//! A text's change in parts, of which some are chosen.

use std::ops::Range;

use crate::lines::{Edit, LineDiff};

/// Lines around an edit that are shown with it.
pub const CONTEXT: usize = 3;

/// Edits that are so near to each other that their contexts touch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hunk {
    /// Which of [`LineDiff::edits`].
    pub edits: Range<usize>,
    /// Lines of `before` with their context, numbered from 0.
    pub before: Range<usize>,
    /// Lines of `after` with their context, numbered from 0.
    pub after: Range<usize>,
}

/// The hunks of a change, in order; every edit is in one.
pub fn hunks(diff: &LineDiff<'_>) -> Vec<Hunk> {
    let mut all: Vec<Hunk> = Vec::new();
    for hunk in smallest(diff) {
        match all.last_mut().filter(|last| last.before.end >= hunk.before.start) {
            Some(last) => {
                (last.edits.end, last.before.end, last.after.end) =
                    (hunk.edits.end, hunk.before.end, hunk.after.end);
            }
            None => all.push(hunk),
        }
    }
    all
}

/// A hunk for each edit, so that edits which are near to each other can be chosen apart. Their contexts may overlap.
pub fn smallest(diff: &LineDiff<'_>) -> Vec<Hunk> {
    let around = |range: &Range<usize>, lines: usize| {
        range.start.saturating_sub(CONTEXT)..range.end.saturating_add(CONTEXT).min(lines)
    };
    let hunk = |(number, edit): (usize, &Edit)| Hunk {
        edits: number..number + 1,
        before: around(&edit.before, diff.before.len()),
        after: around(&edit.after, diff.after.len()),
    };
    diff.edits.iter().enumerate().map(hunk).collect()
}

/// `before` with the edits of the chosen hunks, which are in order: with all of them it is `after`.
pub fn with_chosen<'h>(diff: &LineDiff<'_>, chosen: impl IntoIterator<Item = &'h Hunk>) -> Vec<u8> {
    let (mut out, mut at) = (Vec::new(), 0);
    for edit in chosen.into_iter().flat_map(|hunk| diff.edits.get(hunk.edits.clone()).unwrap_or_default()) {
        out.extend(diff.before.get(at..edit.before.start).unwrap_or_default().concat());
        out.extend(diff.after.get(edit.after.clone()).unwrap_or_default().concat());
        at = at.max(edit.before.end);
    }
    out.extend(diff.before.get(at..).unwrap_or_default().concat());
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn contexts_that_touch_are_one_hunk() {
        let before: Vec<u8> = (0..30).flat_map(|n| format!("{n}\n").into_bytes()).collect();
        let after = String::from_utf8(before.clone()).unwrap();
        let after =
            after.replace("\n5\n", "\nfive\n").replace("\n12\n", "\ntwelve\n").replace("\n25\n", "\n");
        let diff = LineDiff::new(&before, after.as_bytes());
        let all = hunks(&diff);
        assert_eq!(all.iter().map(|hunk| hunk.edits.len()).collect::<Vec<_>>(), [2, 1]);
        assert_eq!((all[0].before.clone(), all[0].after.clone()), (2..16, 2..16));
        assert_eq!((all[1].before.clone(), all[1].after.clone()), (22..29, 22..28));
        assert_eq!(smallest(&diff).len(), 3);
        let second = String::from_utf8(with_chosen(&diff, &all[1..])).unwrap();
        assert!(second.contains("\n5\n") && second.contains("\n12\n") && !second.contains("\n25\n"));
    }

    proptest! {
        #[test]
        fn all_give_after_and_none_gives_before(a in "[abc\n]{0,60}", b in "[abc\n]{0,60}") {
            let diff = LineDiff::new(a.as_bytes(), b.as_bytes());
            for all in [hunks(&diff), smallest(&diff)] {
                prop_assert_eq!(with_chosen(&diff, &all), b.as_bytes());
                prop_assert_eq!(with_chosen(&diff, &all[..0]), a.as_bytes());
            }
        }

        #[test]
        fn each_hunk_is_of_its_own(a in "[ab\n]{0,80}", b in "[ab\n]{0,80}", choice in proptest::collection::vec(any::<bool>(), 40)) {
            let diff = LineDiff::new(a.as_bytes(), b.as_bytes());
            let all = smallest(&diff);
            let chosen: Vec<&Hunk> = all.iter().zip(choice.iter().cycle()).filter(|(_, chosen)| **chosen).map(|(hunk, _)| hunk).collect();
            let mixed = with_chosen(&diff, chosen.iter().copied());
            let lines: usize = chosen.iter().map(|hunk| diff.edits[hunk.edits.start].after.len()).sum();
            let gone: usize = chosen.iter().map(|hunk| diff.edits[hunk.edits.start].before.len()).sum();
            prop_assert!(crate::lines::split(&mixed).len() <= diff.before.len() + lines - gone);
        }
    }
}
