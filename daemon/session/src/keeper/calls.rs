//! The files that a process's threads opened to run them, and what became of each. Pure: what the kernel says comes
//! in, what is certain comes out.
//!
//! A call of `execve(2)` opens its file, then for a script the interpreter (which may be a script), at last the ELF
//! loader. A thread makes one call at a time, so a call's files are a part of its thread's sequence without a gap, and
//! a call that changes the image is the last of its thread. If it fails, everything that it opened is closed before
//! the thread can make another.

use agentd_kernel::procfs::FileId;
use agentd_policy::event::ExecResult;

/// The most files that one call opens: the program, six interpreters (`exec_binprm`), a loader.
const MAX_OPENED: usize = 8;

/// Whether a file was opened by the call that opened the one before it in its thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    Same,
    Another,
    Unclear,
}

#[derive(Clone, Debug)]
struct Opened {
    thread: i32,
    file: FileId,
    path: String,
    /// It was marked, for its closes to be reported.
    marked: bool,
    /// All of them were.
    watched: bool,
    /// Its call is over.
    over: bool,
    link: Link,
}

/// What is certain of one call, or of one file where its call is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What was to be run.
    pub path: String,
    /// What the same call opened after it.
    pub interpreters: Vec<String>,
    /// What became of it.
    pub result: ExecResult,
    /// Of a call that ran: the file that is the image.
    pub program: Option<String>,
    /// Those of the files that were marked.
    pub marked: Vec<FileId>,
}

/// What a process was last seen to run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Before {
    /// The file; `None` if the kernel does not say.
    pub exe: Option<FileId>,
    /// It was forked with that image, and has certainly run no other.
    pub forked: bool,
}

/// The calls of one process since its image was last known.
#[derive(Debug, Default)]
pub struct Calls {
    opened: Vec<Opened>,
    /// One of them may have run unseen: the program that ran before, once more.
    doubt: bool,
}

impl Calls {
    /// How many files are in question.
    pub fn len(&self) -> usize {
        self.opened.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.opened.is_empty()
    }

    /// Whether a call is over.
    pub fn has_over(&self) -> bool {
        self.opened.iter().any(|opened| opened.over)
    }

    /// Whether `thread` has opened one.
    pub fn has(&self, thread: i32) -> bool {
        self.opened.iter().any(|opened| opened.thread == thread)
    }

    /// The threads that did.
    pub fn threads(&self) -> Vec<i32> {
        let mut threads: Vec<i32> = self.opened.iter().map(|opened| opened.thread).collect();
        threads.sort_unstable();
        threads.dedup();
        threads
    }

    /// Whether `file` is in question: an image of it may be a new one.
    pub fn includes(&self, file: FileId) -> bool {
        self.opened.iter().any(|opened| opened.file == file)
    }

    /// A thread waits to open another file, while the image is as it was `before` as far as can be seen. What is
    /// certain of files that no call can still have to do with.
    pub fn open(
        &mut self,
        thread: i32,
        file: FileId,
        path: &str,
        marked: bool,
        before: Before,
    ) -> Vec<Outcome> {
        let unchanged = !self.doubt && !self.may_hide(before);
        let link = match self.opened.iter().rfind(|opened| opened.thread == thread) {
            None => Link::Another,
            Some(last) if last.over => Link::Another,
            Some(last) if last.watched && unchanged => Link::Same,
            Some(_) => Link::Unclear,
        };
        self.opened.push(Opened {
            thread,
            file,
            path: path.to_owned(),
            marked,
            watched: marked,
            over: false,
            link,
        });
        let of_thread = self.of(thread);
        let first = of_thread[0];
        let mut outcomes = Vec::new();
        if of_thread.len() > MAX_OPENED {
            let result = if unchanged { self.over(&[first], before) } else { ExecResult::Unknown };
            outcomes.push(self.outcome(&[first], result));
            self.opened.remove(first);
        }
        outcomes
    }

    /// A thread closed a file: the call that opened it is over.
    pub fn closed(&mut self, thread: i32, file: FileId) {
        let mut found = false;
        for opened in self.opened.iter_mut().filter(|o| o.thread == thread && o.file == file) {
            (opened.over, found) = (true, true);
        }
        if !found {
            // A file whose number has changed (overlayfs without xino, at a copy up): which one is unknown.
            self.doubt(Some(thread));
        }
    }

    /// The calls of a thread are over: it is seen to do something else.
    pub fn left(&mut self, thread: i32) {
        self.opened.iter_mut().filter(|o| o.thread == thread).for_each(|opened| opened.over = true);
    }

    /// Closes were lost, of one thread or of all.
    pub fn doubt(&mut self, thread: Option<i32>) {
        let concerned = |o: &&mut Opened| thread.is_none_or(|thread| o.thread == thread);
        self.opened.iter_mut().filter(concerned).for_each(|opened| {
            opened.watched = false;
            if opened.link == Link::Same {
                opened.link = Link::Unclear;
            }
        });
    }

    /// The image is as it was `before`: what is certain of the calls that are over. If it may be another of the same
    /// file, none of them is, nor of those that follow until that is known.
    pub fn unchanged(&mut self, before: Before) -> Vec<Outcome> {
        let over = |call: &Vec<usize>| call.iter().any(|at| self.opened[*at].over);
        let done: Vec<_> = self.calls().into_iter().filter(over).collect();
        self.doubt |= !done.is_empty() && self.may_hide(before);
        let outcomes =
            done.iter().map(|call| (call[0], self.outcome(call, self.over(call, before)))).collect();
        let mut gone: Vec<usize> = done.into_iter().flatten().collect();
        gone.sort_unstable();
        gone.into_iter().rev().for_each(|at| drop(self.opened.remove(at)));
        self.doubt &= !self.is_empty();
        in_order(outcomes)
    }

    /// The image is a new one, of the file `exe` if the kernel says which. Whether one of the outcomes is the call that
    /// made it, with the rest of what is certain.
    pub fn changed(&mut self, exe: Option<FileId>, before: Before) -> (bool, Vec<Outcome>) {
        self.doubt |= self.may_hide(before);
        let found = exe.and_then(|exe| self.program(exe));
        let ran = found.map(|(program, loader)| self.call_of(program, loader, before)).unwrap_or_default();
        let program = found.map(|(program, _)| self.opened[program].path.clone());
        let doubtful = match ran.first() {
            Some(first) => self.calls_until(self.opened[*first].thread, Some(*first)),
            None => self.last_calls(),
        };
        let last = self.last_calls();
        let mut outcomes = Vec::new();
        if let Some(first) = ran.first() {
            outcomes.push((*first, Outcome { program, ..self.outcome(&ran, ExecResult::Ran) }));
        }
        for call in self.calls() {
            let is_last = last.contains(&call);
            let alike = exe.is_none_or(|exe| call.iter().any(|at| self.opened[*at].file == exe));
            let result = match doubtful.contains(&call) || (alike && (is_last || !before.forked)) {
                true => ExecResult::Unknown,
                false => self.over(&call, before),
            };
            let rest: Vec<usize> = call.into_iter().filter(|at| !ran.contains(at)).collect();
            // What follows the program in its thread and is not certainly its loader.
            let after =
                ran.last().is_some_and(|end| rest.iter().any(|at| at > end && self.same_thread(*at, *end)));
            let result = if after { ExecResult::Unknown } else { result };
            outcomes.extend(rest.first().map(|first| (*first, self.outcome(&rest, result))));
        }
        (self.opened, self.doubt) = (Vec::new(), false);
        (!ran.is_empty(), in_order(outcomes))
    }

    /// The process is gone, and with it every sign of what it ran last.
    pub fn gone(&mut self, before: Before) -> Vec<Outcome> {
        self.doubt |= self.may_hide(before);
        let last = self.last_calls();
        let mut outcomes = Vec::new();
        for call in self.calls() {
            let result = if last.contains(&call) { ExecResult::Unknown } else { self.over(&call, before) };
            outcomes.push((call[0], self.outcome(&call, result)));
        }
        (self.opened, self.doubt) = (Vec::new(), false);
        in_order(outcomes)
    }

    /// Whether an image of one of the files would look like the one `before`.
    fn may_hide(&self, before: Before) -> bool {
        !before.forked && before.exe.is_none_or(|exe| self.includes(exe))
    }

    fn same_thread(&self, one: usize, other: usize) -> bool {
        self.opened[one].thread == self.opened[other].thread
    }

    /// The positions of a thread's files.
    fn of(&self, thread: i32) -> Vec<usize> {
        (0..self.opened.len()).filter(|at| self.opened[*at].thread == thread).collect()
    }

    /// Files that were certainly opened by one call, of all threads.
    fn calls(&self) -> Vec<Vec<usize>> {
        let mut calls: Vec<Vec<usize>> = Vec::new();
        for thread in self.threads() {
            let mut begun = false;
            for at in self.of(thread) {
                match calls.last_mut() {
                    Some(call) if begun && self.opened[at].link == Link::Same => call.push(at),
                    _ => calls.push(vec![at]),
                }
                begun = true;
            }
        }
        calls
    }

    /// Of each thread those that may have to do with its last call.
    fn last_calls(&self) -> Vec<Vec<usize>> {
        self.threads().into_iter().flat_map(|thread| self.calls_until(thread, None)).collect()
    }

    /// Those of a thread that may be one with its last call, or with the one that begins at `end`, which is left out.
    fn calls_until(&self, thread: i32, end: Option<usize>) -> Vec<Vec<usize>> {
        let calls = self.calls().into_iter().filter(|call| self.opened[call[0]].thread == thread);
        let mut linked = end.is_none_or(|end| self.opened[end].link != Link::Another);
        let mut all = Vec::new();
        for call in calls.rev().filter(|call| end.is_none_or(|end| call[0] < end)) {
            if !linked {
                break;
            }
            linked = self.opened[call[0]].link != Link::Another;
            all.push(call);
        }
        all
    }

    /// Where the program is whose file became the image, and its loader: the last of a thread's files, or the one
    /// before. None if several calls were for the same file, whose names may differ: which of them ran is not known.
    fn program(&self, exe: FileId) -> Option<(usize, Option<usize>)> {
        let mut found = Vec::new();
        for thread in self.threads() {
            let of_thread = self.of(thread);
            let last = of_thread.len() - 1;
            if last > 0 && self.opened[of_thread[last]].link != Link::Another {
                found.push((of_thread[last - 1], Some(of_thread[last])));
            }
            found.push((of_thread[last], None));
        }
        found.retain(|(program, _)| self.opened[*program].file == exe);
        let (last, _) = *found.last()?;
        let one = |(program, _): &(usize, _)| {
            *program == last || self.same_thread(*program, last) && self.opened[last].link == Link::Same
        };
        found.iter().all(one).then(|| found[found.len() - 1])
    }

    /// The call that ran `program`: what is certainly a part of it. A loader that came after is, unless `program` may
    /// have been the image by then.
    fn call_of(&self, program: usize, loader: Option<usize>, before: Before) -> Vec<usize> {
        let of_thread = self.of(self.opened[program].thread);
        let at = of_thread.iter().position(|i| *i == program).unwrap_or(0);
        let mut first = at;
        while first > 0 && self.opened[of_thread[first]].link == Link::Same {
            first -= 1;
        }
        let mut call = of_thread[first..=at].to_vec();
        let not_yet = before.forked || before.exe.is_some_and(|exe| exe != self.opened[program].file);
        call.extend(loader.filter(|loader| not_yet || self.opened[*loader].link == Link::Same));
        call
    }

    /// What is certain of a call that is over and did not make the image: it may have made the one before.
    fn over(&self, call: &[usize], before: Before) -> ExecResult {
        let other = before.exe.is_some_and(|exe| call.iter().all(|at| self.opened[*at].file != exe));
        if before.forked || other && !self.doubt { ExecResult::Failed } else { ExecResult::Unknown }
    }

    fn outcome(&self, call: &[usize], result: ExecResult) -> Outcome {
        let mut paths = call.iter().map(|at| self.opened[*at].path.clone());
        let marked = call.iter().map(|at| &self.opened[*at]).filter(|o| o.marked).map(|o| o.file);
        Outcome {
            path: paths.next().unwrap_or_default(),
            interpreters: paths.collect(),
            result,
            program: None,
            marked: marked.collect(),
        }
    }
}

impl Default for Outcome {
    fn default() -> Self {
        let (path, interpreters, marked) = Default::default();
        Self { path, interpreters, result: ExecResult::Unknown, program: None, marked }
    }
}

fn in_order(mut outcomes: Vec<(usize, Outcome)>) -> Vec<Outcome> {
    outcomes.sort_by_key(|(at, _)| *at);
    outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}

#[cfg(test)]
#[path = "calls_tests.rs"]
mod tests;
