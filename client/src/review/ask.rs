//! Questions on the terminal, about changes.

use std::io::BufRead as _;

use agentd_review::apply::{Content, Step};
use agentd_review::change::Action;
use agentd_review::content::{Budget, Held, MAX_TEXT, Sides, after, before};
use agentd_review::hunks::{hunks, smallest, with_chosen};
use agentd_review::lines::{LineDiff, is_binary};
use agentd_review::show::text::{Style, change, hunk};

use super::loaded::Workspace;
use crate::failure::Failure;
use crate::show::{colours, print};
use crate::terminal::Streams;

/// What the caller wants of one change.
#[derive(Debug)]
pub enum Answer {
    /// This of it.
    Yes(Box<Step>),
    /// Nothing of it.
    No,
    /// This of it, and nothing of those that follow.
    Last(Box<Step>),
    /// Nothing, and nothing of those that follow.
    Quit,
}

/// Whether somebody is there to be asked.
pub fn can_ask() -> bool {
    let streams = Streams::look();
    streams.stdin && streams.stderr
}

/// Asks a question that is answered by yes or no; no answer is no.
///
/// # Errors
/// If standard input or output fails.
pub fn yes(question: &str) -> Result<bool, Failure> {
    Ok(matches!(read(&format!("{question} [y/N] "))?.as_deref(), Some("y" | "yes")))
}

/// Asks about a change: as a whole, or, if it is a text that the session modified, about each hunk.
///
/// # Errors
/// If standard input or output fails.
pub fn about(workspace: &Workspace, step: Step) -> Result<Answer, Failure> {
    let style = Style { colours: colours() };
    let Workspace { trees, .. } = workspace;
    let sides = (before(&step.change, trees, MAX_TEXT), after(&step.change, trees, MAX_TEXT));
    let is_merge = matches!(step.content, Content::Bytes(_));
    if let (Action::Modified, false, (Held::Bytes(old), Held::Bytes(new))) =
        (step.change.action(), is_merge, &sides)
        && !is_binary(old)
        && !is_binary(new)
    {
        let diff = LineDiff::new(old, new);
        return by_hunks(&diff, step, style);
    }
    let sides = Sides::read(&step.change, trees, &mut Budget::default());
    print(&change(&step.change, &sides, style))?;
    loop {
        match read("apply this change [y,n,q]? ")?.as_deref() {
            Some("y") => return Ok(Answer::Yes(Box::new(step))),
            Some("n") => return Ok(Answer::No),
            Some("q") => return Ok(Answer::Quit),
            None => return Err(Failure::failed("nothing was applied: the input ended")),
            Some(_) => print("y: apply it; n: leave it out; q: leave it out, and all that follow\n")?,
        }
    }
}

fn by_hunks(diff: &LineDiff<'_>, step: Step, style: Style) -> Result<Answer, Failure> {
    print(&format!("{}\n", step.change.path))?;
    let modes = step.change.before.as_ref().zip(step.change.after.as_ref()).map(|(b, a)| (b.mode, a.mode));
    if let Some((before, after)) = modes.filter(|(before, after)| before != after) {
        print(&format!("  mode {before:04o} -> {after:04o}, with any of its hunks\n"))?;
    }
    let mut waiting: Vec<_> = hunks(diff).into_iter().rev().collect();
    let mut chosen = Vec::new();
    let (mut rest, mut over) = (None, false);
    while let Some(next) = waiting.pop() {
        print(&hunk(diff, &next, style))?;
        match rest
            .clone()
            .map_or_else(|| read("apply this hunk [y,n,a,d,s,q]? "), |answer| Ok(Some(answer)))?
            .as_deref()
        {
            Some("y") => chosen.push(next),
            Some("n") => {}
            Some("a") => {
                chosen.push(next);
                rest = Some("y".to_owned());
            }
            Some("d") => break,
            Some("s") => {
                let parts = smallest(diff).into_iter().filter(|part| next.edits.contains(&part.edits.start));
                waiting.extend(parts.collect::<Vec<_>>().into_iter().rev());
            }
            Some("q") if chosen.is_empty() => return Ok(Answer::Quit),
            Some("q") => {
                over = true;
                break;
            }
            None => return Err(Failure::failed("nothing was applied: the input ended")),
            Some(_) => {
                print(
                    "y: apply it; n: leave it out; a, d: it and the rest of this file, or neither; s: ask about its parts; q: no more\n",
                )?;
                waiting.push(next);
            }
        }
    }
    if chosen.is_empty() {
        return Ok(Answer::No);
    }
    let all: usize = chosen.iter().map(|hunk| hunk.edits.len()).sum();
    let content = match all == diff.edits.len() {
        true => Content::FromSession,
        false => Content::Bytes(with_chosen(diff, &chosen)),
    };
    let step = Box::new(Step { content, ..step });
    Ok(if over { Answer::Last(step) } else { Answer::Yes(step) })
}

/// One line of the caller's, in lower case; `None` at the end of input.
fn read(question: &str) -> Result<Option<String>, Failure> {
    // Standard output may be a file.
    crate::pipes::write(rustix::stdio::stderr(), question.as_bytes())
        .map_err(|error| Failure::output("stderr", &error))?;
    let mut line = String::new();
    let length = std::io::stdin().lock().read_line(&mut line);
    match length.map_err(|error| Failure::failed(format!("standard input: {error}")))? {
        0 => Ok(None),
        _ => Ok(Some(line.trim().to_lowercase())),
    }
}
