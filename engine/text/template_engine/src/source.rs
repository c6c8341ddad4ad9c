//! What a template's source needs before the engine reads it.

use minijinja::Error;

use crate::limits::failure;
use crate::text::{GIVEN_BEGIN, GIVEN_END};

const MAX_BYTES: usize = 128 << 10;

/// Line ends as Jinja makes them, and the `generation` tags that Hugging Face adds to the language,
/// which mark an assistant's text for training, as conditions that always hold. An error for what
/// is too long, or holds the marks of given text.
pub fn normalize(source: &str) -> Result<String, Error> {
    if source.len() > MAX_BYTES {
        return Err(failure(format!("it has more than {MAX_BYTES} bytes")));
    }
    if source.contains([GIVEN_BEGIN, GIVEN_END]) {
        return Err(failure("it holds a noncharacter, U+FDD0 or U+FDD1"));
    }
    Ok(without_generation(&source.replace("\r\n", "\n").replace('\r', "\n")))
}

fn without_generation(source: &str) -> String {
    let mut result = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(begin) = rest.find("{%").map(|at| at + 2) {
        result.push_str(&rest[..begin]);
        rest = &rest[begin..];
        let name_begin = rest.find(|c: char| c.is_alphabetic()).unwrap_or(rest.len());
        let name_end = rest[name_begin..]
            .find(|c: char| !c.is_alphanumeric() && c != '_')
            .map_or(rest.len(), |length| name_begin + length);
        if rest[..name_begin].trim_start_matches(['-', '+']).trim() != "" {
            continue;
        }
        let instead = match &rest[name_begin..name_end] {
            "generation" => "if true",
            "endgeneration" => "endif",
            _ => continue,
        };
        result.push_str(&rest[..name_begin]);
        result.push_str(instead);
        rest = &rest[name_end..];
    }
    result + rest
}
