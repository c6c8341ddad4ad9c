//! Reads JSON: what a conversation is handed over as.

use minijinja::value::Value;
use minijinja::Error;

use crate::limits::{failure, MAX_DEPTH};
use crate::objects::{List, Map};

pub fn parse(text: &str) -> Result<Value, Error> {
    let mut reader = Reader { rest: text };
    let value = reader.value(0)?;
    reader.skip_space();
    match reader.rest {
        "" => Ok(value),
        _ => Err(failure("JSON has something behind its end")),
    }
}

struct Reader<'a> {
    rest: &'a str,
}

impl<'a> Reader<'a> {
    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\n', '\r', '\t']);
    }

    fn accept(&mut self, token: &str) -> bool {
        self.skip_space();
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, token: &str) -> Result<(), Error> {
        match self.accept(token) {
            true => Ok(()),
            false => Err(failure(format!("JSON lacks a {token}"))),
        }
    }

    fn value(&mut self, depth: u32) -> Result<Value, Error> {
        if depth >= MAX_DEPTH {
            return Err(failure(format!("JSON is nested more than {MAX_DEPTH} levels deep")));
        }
        if self.accept("{") {
            let mut entries = Vec::new();
            while !self.accept("}") {
                if !entries.is_empty() {
                    self.expect(",")?;
                }
                self.expect("\"")?;
                let key = self.string()?;
                self.expect(":")?;
                entries.push((Value::from(key), self.value(depth + 1)?));
            }
            return Map::new(entries);
        }
        if self.accept("[") {
            let mut items = Vec::new();
            while !self.accept("]") {
                if !items.is_empty() {
                    self.expect(",")?;
                }
                items.push(self.value(depth + 1)?);
            }
            return List::new(items);
        }
        if self.accept("\"") {
            return Ok(Value::from(self.string()?));
        }
        for (word, value) in
            [("null", Value::from(())), ("true", Value::from(true)), ("false", Value::from(false))]
        {
            if self.accept(word) {
                return Ok(value);
            }
        }
        self.number()
    }

    /// The rest of a string behind its opening quote.
    fn string(&mut self) -> Result<String, Error> {
        let mut text = String::new();
        loop {
            let end = self.rest.find(['"', '\\']).ok_or_else(|| failure("JSON lacks a quote"))?;
            text.push_str(&self.rest[..end]);
            let is_quote = self.rest[end..].starts_with('"');
            self.rest = &self.rest[end + 1..];
            if is_quote {
                return Ok(text);
            }
            let escape = self.rest.chars().next().unwrap_or(' ');
            self.rest = &self.rest[escape.len_utf8().min(self.rest.len())..];
            match escape {
                'n' => text.push('\n'),
                'r' => text.push('\r'),
                't' => text.push('\t'),
                'b' => text.push('\u{8}'),
                'f' => text.push('\u{c}'),
                'u' => {
                    let mut units = vec![self.code_unit()?];
                    if (0xd800..0xdc00).contains(&units[0]) && self.rest.starts_with("\\u") {
                        self.rest = &self.rest[2..];
                        units.push(self.code_unit()?);
                    }
                    text.push_str(&String::from_utf16_lossy(&units));
                }
                '"' | '\\' | '/' => text.push(escape),
                _ => return Err(failure("JSON has an unknown escape")),
            }
        }
    }

    fn code_unit(&mut self) -> Result<u16, Error> {
        let digits = self.rest.get(..4).unwrap_or("");
        let unit = u16::from_str_radix(digits, 16).map_err(|_| failure("JSON lacks digits"))?;
        self.rest = &self.rest[4..];
        Ok(unit)
    }

    fn number(&mut self) -> Result<Value, Error> {
        let is_end = |c: char| !c.is_ascii_digit() && !"+-.eE".contains(c);
        let (digits, rest) = self.rest.split_at(self.rest.find(is_end).unwrap_or(self.rest.len()));
        self.rest = rest;
        if let Ok(number) = digits.parse::<i64>() {
            return Ok(Value::from(number));
        }
        if let Ok(number) = digits.parse::<i128>() {
            return Ok(Value::from(number));
        }
        match digits.parse::<f64>() {
            Ok(number) => Ok(Value::from(number)),
            Err(_) => Err(failure("JSON has something unknown")),
        }
    }
}
