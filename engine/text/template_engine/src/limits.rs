//! What one rendering may cost beside its steps, which the engine counts.

use std::cell::Cell;

use minijinja::{Error, ErrorKind};

/// Lists and maps in one another: deeper ones could not be dropped on a thread's stack.
pub const MAX_DEPTH: u32 = 64;

thread_local! {
    /// Bytes that the rendering on this thread may still read and write; templates can double a
    /// text with each step.
    static LEFT: Cell<usize> = Cell::new(0);
}

/// Begins a rendering on this thread.
pub fn allow(bytes: usize) {
    LEFT.with(|left| left.set(bytes));
}

/// Takes so many bytes, or says that the rendering has had all of them.
pub fn charge(bytes: usize) -> Result<(), Error> {
    LEFT.with(|left| match left.get().checked_sub(bytes) {
        Some(rest) => {
            left.set(rest);
            Ok(())
        }
        None => {
            left.set(0);
            Err(failure("the template makes too much text"))
        }
    })
}

/// An error that says why a template can't be rendered.
pub fn failure(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, what.into())
}
