//! Renders chat templates: a C interface for engine/text/chat_template.cc, which declares the same.
//!
//! The engine is minijinja, with operators, filters, methods and tests of our own: Python's
//! results, limits on what they make, and texts that keep their authors (text.rs).

mod call;
mod checks;
mod compile;
mod filters;
mod functions;
mod json;
mod limits;
mod list_filters;
mod methods;
mod objects;
mod operators;
mod print;
mod source;
mod text;
mod time;
mod values;

use std::panic::{catch_unwind, AssertUnwindSafe};

use minijinja::{Error, ErrorKind};

use compile::Template;
use time::LocalTime;

/// Bytes that `winnow_template_free_text` frees.
#[repr(C)]
pub struct OwnedText {
    data: *mut u8,
    size: usize,
}

impl OwnedText {
    fn new(text: String) -> OwnedText {
        let bytes = Box::leak(text.into_bytes().into_boxed_slice());
        OwnedText { data: bytes.as_mut_ptr(), size: bytes.len() }
    }
}

/// Compiles a template whose renderings may take so many steps. Null, with the reason in `error`,
/// for what is no template. `winnow_template_free` frees it.
///
/// # Safety
/// `source` points to `size` bytes, and `error` to memory for a result.
#[no_mangle]
pub unsafe extern "C" fn winnow_template_compile(
    source: *const u8,
    size: usize,
    max_steps: u64,
    error: *mut OwnedText,
) -> *mut Template {
    let source = String::from_utf8_lossy(std::slice::from_raw_parts(source, size));
    limits::allow(usize::MAX);
    match guarded(|| Template::compile(&source, max_steps)) {
        Ok(template) => Box::into_raw(Box::new(template)),
        Err(why) => {
            error.write(OwnedText::new(describe(&why)));
            std::ptr::null_mut()
        }
    }
}

/// Renders a template with the variables of a JSON object, in which the request's texts are marked.
/// `max_bytes` bounds what its operations read and write. `result` becomes the text (0 is
/// returned), what the template says why it refuses (1), or why it fails (2).
///
/// # Safety
/// `context` points to `size` bytes of UTF-8, `now` to a time, `result` to memory for a result.
#[no_mangle]
pub unsafe extern "C" fn winnow_template_render(
    template: *const Template,
    context: *const u8,
    size: usize,
    max_bytes: usize,
    now: *const LocalTime,
    result: *mut OwnedText,
) -> i32 {
    let context = std::slice::from_raw_parts(context, size);
    functions::set_now(*now);
    functions::take_raised();
    limits::allow(max_bytes);
    let rendered = guarded(|| {
        let context = std::str::from_utf8(context).map_err(|_| limits::failure("not UTF-8"))?;
        (*template).render(json::parse(context)?)
    });
    let (text, code) = match (rendered, functions::take_raised()) {
        (Ok(text), _) => (text, 0),
        (Err(_), Some(raised)) => (raised, 1),
        (Err(why), None) => (describe(&why), 2),
    };
    result.write(OwnedText::new(text));
    code
}

/// # Safety
/// `template` came from `winnow_template_compile` and is not used afterwards.
#[no_mangle]
pub unsafe extern "C" fn winnow_template_free(template: *mut Template) {
    drop(Box::from_raw(template));
}

/// # Safety
/// `text` was written by a function of this file and is not used afterwards.
#[no_mangle]
pub unsafe extern "C" fn winnow_template_free_text(text: OwnedText) {
    drop(Box::from_raw(std::ptr::slice_from_raw_parts_mut(text.data, text.size)));
}

/// Nothing unwinds into C++.
fn guarded<T>(body: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(body))
        .unwrap_or_else(|_| Err(limits::failure("the template engine failed")))
}

/// What is wrong and in which line, in few words.
fn describe(error: &Error) -> String {
    let what = match (error.kind(), error.detail()) {
        (ErrorKind::OutOfFuel, _) => "it takes too many steps".into(),
        (ErrorKind::UndefinedError, None) => "it reads an attribute of an undefined value".into(),
        (_, Some(detail)) => detail.into(),
        (kind, None) => kind.to_string(),
    };
    match error.line() {
        Some(line) => format!("{what} (line {line})"),
        None => what,
    }
}
