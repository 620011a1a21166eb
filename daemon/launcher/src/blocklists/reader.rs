//! Reading lists and writing their table: by a process under the service's account that can do nothing else.

use std::fs::File;
use std::os::fd::BorrowedFd;

use agentd_policy::blocklist::{self, Compiler, KEY, ListFile};

use super::{NotRead, Report};

/// Writes the table of all names in `files` to `table`.
pub fn compile(lists: &[ListFile], files: &[File], table: BorrowedFd<'_>, key: [u8; KEY]) -> Report {
    let labels = lists.iter().map(|list| list.label.clone()).collect();
    let mut compiler = Compiler::new(key, labels);
    let mut summaries = Vec::new();
    for (number, file) in (0..).zip(files) {
        let read = blocklist::read(file, |scope, name| compiler.add(number, scope, name));
        summaries.push(read.map_err(|error| not_a_list(number, &error))?);
        compiler.check().map_err(|full| not_a_list(number, &full))?;
    }
    let written = compiler.finish(|mut bytes| {
        while !bytes.is_empty() {
            bytes = &bytes[rustix::io::retry_on_intr(|| rustix::io::write(table, bytes))?..];
        }
        Ok::<_, rustix::io::Errno>(())
    });
    written.map_err(NotRead::host)?;
    Ok(summaries)
}

fn not_a_list(list: u8, error: &dyn std::error::Error) -> NotRead {
    NotRead { list: Some(list), why: error.to_string() }
}
