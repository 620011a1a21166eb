//! Classic BPF: rules to instructions, instructions to text.

use std::collections::HashMap;
use std::fmt;

use libc::{
    BPF_ABS, BPF_ALU, BPF_AND, BPF_JA, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_RET, BPF_W,
};

use super::{Match, Rule, Verdict, Word, tables};
use crate::width::{at_most, half};

/// Offsets in `struct seccomp_data`.
pub(super) const NUMBER: u32 = 0;
pub(super) const ARCH: u32 = 4;
const ARGUMENTS: u32 = 16;
// `AUDIT_ARCH_X86_64`.
pub(super) const X86_64: u32 = 0xc000_003e;

pub(super) const LOAD: u16 = half(BPF_LD | BPF_W | BPF_ABS);
pub(super) const AND: u16 = half(BPF_ALU | BPF_AND | BPF_K);
pub(super) const RETURN: u16 = half(BPF_RET | BPF_K);
pub(super) const JUMP: u16 = half(BPF_JMP | BPF_JA);
pub(super) const IF_EQUAL: u16 = half(BPF_JMP | BPF_JEQ | BPF_K);
pub(super) const IF_FROM: u16 = half(BPF_JMP | BPF_JGE | BPF_K);
pub(super) const IF_ANY: u16 = half(BPF_JMP | BPF_JSET | BPF_K);

/// A place in the program, counted from its end: that does not change while it grows at its front.
type Label = usize;

/// Builds a program from its end, as jumps only go forward: what is jumped to is there already, and what
/// several places need is there once.
#[derive(Default)]
struct Builder<'a> {
    // In reverse order.
    program: Vec<libc::sock_filter>,
    rules: HashMap<&'a Rule, Label>,
}

/// The filter for `ranges` (first number, rule), which are in order and start at 0.
pub(super) fn program(ranges: &[(u32, Rule)]) -> Vec<libc::sock_filter> {
    let foreign = Rule::Always(tables::UNKNOWN);
    let mut builder = Builder::default();
    let tree = builder.tree(ranges, &foreign);
    builder.need(tree);
    builder.load(NUMBER);
    let native = builder.here();
    let foreign = builder.rule(&foreign);
    builder.branch(IF_EQUAL, X86_64, native, foreign);
    builder.load(ARCH);
    builder.program.reverse();
    builder.program
}

impl<'a> Builder<'a> {
    fn here(&self) -> Label {
        self.program.len()
    }

    fn push(&mut self, code: u16, jt: u8, jf: u8, k: u32) {
        self.program.push(libc::sock_filter { code, jt, jf, k });
    }

    fn load(&mut self, offset: u32) {
        self.push(LOAD, 0, 0, offset);
    }

    /// How far it is from an instruction that is pushed now to `label`.
    fn distance(&self, label: Label) -> usize {
        self.here() - label
    }

    /// Goes on at `label`: falls through if it comes next.
    fn need(&mut self, label: Label) {
        let distance = self.distance(label);
        if distance > 0 {
            self.push(JUMP, 0, 0, at_most(distance));
        }
    }

    /// A label from which `label` is reached, and which one more instruction does not put out of the reach
    /// of a conditional jump (255 instructions).
    fn near(&mut self, label: Label) -> Label {
        if self.distance(label) + 2 > usize::from(u8::MAX) {
            self.push(JUMP, 0, 0, at_most(self.distance(label)));
            return self.here();
        }
        label
    }

    fn branch(&mut self, code: u16, k: u32, then: Label, otherwise: Label) {
        // A jump that is put in for one must not lie in the fall-through of the other: both are jumped to.
        let then = self.near(then);
        let otherwise = self.near(otherwise);
        let [jt, jf] = [then, otherwise].map(|label| match u8::try_from(self.distance(label)) {
            Ok(distance) => distance,
            Err(_) => unreachable!("`near` makes it less"),
        });
        self.push(code, jt, jf, k);
    }

    /// The binary search; the number is loaded.
    fn tree(&mut self, ranges: &'a [(u32, Rule)], empty: &'a Rule) -> Label {
        match ranges {
            [] => self.rule(empty),
            [(_, rule)] => self.rule(rule),
            _ => {
                let (left, right) = ranges.split_at(ranges.len() / 2);
                let first = right[0].0;
                let right = self.tree(right, empty);
                let left = self.tree(left, empty);
                self.branch(IF_FROM, first, right, left);
                self.here()
            }
        }
    }

    /// Where `rule` is decided. What is too far for a conditional jump is put in again: an answer is one
    /// instruction, as a jump to it would be.
    fn rule(&mut self, rule: &'a Rule) -> Label {
        let far = |label: &Label| self.here() - label + 2 > usize::from(u8::MAX);
        if let Some(&label) =
            self.rules.get(rule).filter(|label| !(far(label) && matches!(rule, Rule::Always(_))))
        {
            return label;
        }
        let label = match rule {
            Rule::Always(verdict) => {
                self.push(RETURN, 0, 0, action(*verdict));
                self.here()
            }
            Rule::Match(decision) => self.decision(decision),
        };
        self.rules.insert(rule, label);
        label
    }

    fn decision(&mut self, decision: &'a Match) -> Label {
        let mut next = self.rule(&decision.otherwise);
        if decision.arms.iter().all(|(values, _)| values.is_empty()) {
            return next;
        }
        if let [(values, rule)] = &decision.arms[..]
            && values[..] == [0]
        {
            let rule = self.rule(rule);
            self.branch(IF_ANY, decision.mask, next, rule);
        } else {
            for (values, rule) in decision.arms.iter().rev() {
                for value in values.iter().rev() {
                    let rule = self.rule(rule);
                    self.branch(IF_EQUAL, *value, rule, next);
                    next = self.here();
                }
            }
            if decision.mask != u32::MAX {
                self.push(AND, 0, 0, decision.mask);
            }
        }
        self.load(offset(decision.word));
        self.here()
    }
}

/// Where a word is in `struct seccomp_data`; the machine is little-endian.
pub(super) fn offset(word: Word) -> u32 {
    match word {
        Word::Low(argument) => ARGUMENTS + 8 * u32::from(argument),
        Word::High(argument) => ARGUMENTS + 8 * u32::from(argument) + 4,
    }
}

pub(super) fn action(verdict: Verdict) -> u32 {
    match verdict {
        Verdict::Allow => libc::SECCOMP_RET_ALLOW,
        Verdict::Errno(errno) => libc::SECCOMP_RET_ERRNO | u32::from(errno),
        Verdict::Notify(_) => libc::SECCOMP_RET_USER_NOTIF,
        Verdict::Kill => libc::SECCOMP_RET_KILL_PROCESS,
    }
}

pub(super) fn list(program: &[libc::sock_filter], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for (line, instruction) in program.iter().enumerate() {
        let libc::sock_filter { code, jt, jf, k } = *instruction;
        let (then, otherwise) = (line + 1 + usize::from(jt), line + 1 + usize::from(jf));
        write!(f, "{line:3} ")?;
        match code {
            LOAD if k == NUMBER => writeln!(f, "load number")?,
            LOAD if k == ARCH => writeln!(f, "load arch")?,
            LOAD => {
                let half = if k % 8 == 0 { "low" } else { "high" };
                writeln!(f, "load {half} {}", (k - ARGUMENTS) / 8)?;
            }
            AND => writeln!(f, "and {k:#x}")?,
            JUMP => writeln!(f, "jump {}", line + 1 + k as usize)?,
            IF_EQUAL => writeln!(f, "if == {k:#x} then {then} else {otherwise}")?,
            IF_FROM => writeln!(f, "if >= {k} then {then} else {otherwise}")?,
            IF_ANY => writeln!(f, "if & {k:#x} then {then} else {otherwise}")?,
            RETURN if k == libc::SECCOMP_RET_ALLOW => writeln!(f, "allow")?,
            RETURN if k == libc::SECCOMP_RET_KILL_PROCESS => writeln!(f, "kill")?,
            RETURN if k == libc::SECCOMP_RET_USER_NOTIF => writeln!(f, "notify")?,
            RETURN => writeln!(f, "errno {}", k & libc::SECCOMP_RET_DATA)?,
            _ => writeln!(f, "code {code:#x} {k:#x}")?,
        }
    }
    Ok(())
}
