//! From a template's source to instructions that keep texts' authors, and their execution.

use std::collections::BTreeMap;

use minijinja::machinery::{
    make_string_output, parse, CodeGenerator, Instruction, Instructions, Vm, WhitespaceConfig,
};
use minijinja::value::Value;
use minijinja::{AutoEscape, Environment, Error, ErrorKind};

use crate::limits::{charge, failure};
use crate::print::to_text;
use crate::source::normalize;
use crate::{checks, filters, functions, methods, operators};

/// Of threads that compile: the compiler recurses along chains such as a + a + a.
const COMPILER_STACK_BYTES: usize = 256 << 20;
/// Macros in one another count 4 each.
const RECURSION_LIMIT: usize = 200;

/// A compiled template. Immutable, and safe to use from several threads.
pub struct Template {
    // Before the source, which they point into.
    instructions: Instructions<'static>,
    environment: Environment<'static>,
    _source: Box<str>,
}

impl Template {
    pub fn compile(source: &str, max_steps: u64) -> Result<Template, Error> {
        let source = normalize(source)?.into_boxed_str();
        // SAFETY: the text is on the heap, and what points to it goes before it and never leaves.
        let borrowed: &'static str = unsafe { &*(&*source as *const str) };
        let compiler = std::thread::Builder::new()
            .stack_size(COMPILER_STACK_BYTES)
            .spawn(move || instructions(borrowed))
            .map_err(|_| failure("no thread to compile the template in"))?;
        let instructions =
            compiler.join().map_err(|_| failure("the template's compiler failed"))??;
        Ok(Template { instructions, environment: environment(max_steps), _source: source })
    }

    pub fn render(&self, context: Value) -> Result<String, Error> {
        let mut output = String::new();
        let blocks = BTreeMap::new();
        Vm::new(&self.environment).eval(
            &self.instructions,
            context,
            &blocks,
            &mut make_string_output(&mut output),
            AutoEscape::None,
        )?;
        Ok(output)
    }
}

fn environment(max_steps: u64) -> Environment<'static> {
    let mut env = Environment::empty();
    env.set_fuel(Some(max_steps));
    env.set_recursion_limit(RECURSION_LIMIT);
    env.set_unknown_method_callback(methods::call_method);
    env.set_formatter(|out, _state, value| {
        let text = to_text(value)?;
        charge(text.plain.len())?;
        out.write_str(&text.mark()).map_err(Error::from)
    });
    operators::add_operators(&mut env);
    filters::add_filters(&mut env);
    checks::add_checks(&mut env);
    functions::add_functions(&mut env);
    env
}

fn instructions(source: &'static str) -> Result<Instructions<'static>, Error> {
    let whitespace =
        WhitespaceConfig { keep_trailing_newline: false, lstrip_blocks: true, trim_blocks: true };
    let tree = parse(source, "chat template", Default::default(), whitespace)?;
    let mut generator = CodeGenerator::new("chat template", source);
    generator.compile_stmt(&tree);
    rewrite(&generator.finish().0)
}

/// The same instructions with operators.rs in place of the engine's operators.
fn rewrite(old: &Instructions<'static>) -> Result<Instructions<'static>, Error> {
    let mut new = Instructions::new(old.name(), old.source());
    let mut places = Vec::new(); // of the old instructions among the new ones
    for at in 0..old.len() {
        places.push(new.len());
        let line = old.get_line(at).unwrap_or(0) as u32;
        for instruction in replacement(old.get(at).expect("a place below the length"))? {
            new.add_with_line(instruction, line);
        }
    }
    places.push(new.len());
    for at in 0..new.len() {
        use Instruction::*;
        match new.get_mut(at) {
            Some(Iterate(target) | Jump(target) | JumpIfFalse(target))
            | Some(JumpIfFalseOrPop(target) | JumpIfTrueOrPop(target))
            | Some(BuildMacro(_, target, _)) => *target = places[*target],
            _ => {}
        }
    }
    Ok(new)
}

fn replacement(old: &Instruction<'static>) -> Result<Vec<Instruction<'static>>, Error> {
    use Instruction::*;
    let call = |name: &'static str, arguments: usize| -> Result<_, Error> {
        let arguments = u16::try_from(arguments).map_err(|_| failure("a literal is too long"))?;
        Ok(ApplyFilter(name, Some(arguments), !0))
    };
    Ok(vec![match old {
        Add => call("+", 2)?,
        Sub => call("-", 2)?,
        Mul => call("*", 2)?,
        Div => call("/", 2)?,
        IntDiv => call("//", 2)?,
        Rem => call("%", 2)?,
        Pow => call("**", 2)?,
        Neg => call("negative", 1)?,
        Eq => call("==", 2)?,
        Ne => call("!=", 2)?,
        Lt => call("<", 2)?,
        Lte => call("<=", 2)?,
        Gt => call(">", 2)?,
        Gte => call(">=", 2)?,
        StringConcat => call("~", 2)?,
        In => call("a in b", 2)?,
        GetItem => call("a[b]", 2)?,
        Slice => call("a[b:c:d]", 4)?,
        BuildList(Some(count)) => call("[a]", *count)?,
        BuildMap(count) => call("{a:b}", count * 2)?,
        // What stands in the source must not reach the output unseen: the loop around it could fill
        // the memory.
        EmitRaw(text) => return Ok(vec![LoadConst(Value::from(*text)), Emit]),
        PushLoop(_) => return Ok(vec![call("for a", 1)?, old.clone()]),
        SetAttr(name) => {
            let name = LoadConst(Value::from(*name));
            return Ok(vec![name, call("a.b=c", 3)?, DiscardTop]);
        }
        UnpackLists(_) | MergeKwargs(_) => {
            return Err(Error::new(ErrorKind::SyntaxError, "arguments can't be unpacked"))
        }
        CallBlock(_) | LoadBlocks | Include(_) | ExportLocals => {
            return Err(Error::new(ErrorKind::SyntaxError, "it is made of several templates"))
        }
        PushAutoEscape => {
            return Err(Error::new(ErrorKind::SyntaxError, "autoescape is not supported"))
        }
        other => other.clone(),
    }])
}
