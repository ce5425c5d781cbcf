//! Finds the imports in a crate's source files, as paths of modules.

use super::Tree;
use super::source::{Source, is_word};

/// The modules of a crate that have their own file.
pub(super) struct CrateModules<'a> {
    files: Vec<SourceFile<'a>>,
}

/// A source file that is not a test.
pub(super) struct SourceFile<'a> {
    pub(super) path: &'a str,
    /// The module's path from the crate's root; empty for the root itself.
    pub(super) module: Vec<&'a str>,
    /// The paths that the file imports, from the crate's root, each with its line.
    pub(super) imports: Vec<(usize, Vec<String>)>,
}

impl<'a> CrateModules<'a> {
    /// The modules below a directory such as `crates/server/src/`.
    pub(super) fn read(tree: &'a Tree, directory: &str) -> Self {
        let files = tree.with_extension(&["rs"]).filter_map(|(path, text)| {
            let inside = path.strip_prefix(directory)?.strip_suffix(".rs")?;
            let module: Vec<_> = inside.split('/').filter(|part| *part != "lib").collect();
            let imports = imports(text, &module);
            (!module.contains(&"tests")).then_some(SourceFile { path, module, imports })
        });
        Self { files: files.collect() }
    }

    pub(super) fn files(&self) -> impl Iterator<Item = &SourceFile<'a>> {
        self.files.iter()
    }

    /// Whether the crate has a module with this path.
    pub(super) fn has<S: AsRef<str>>(&self, path: &[S]) -> bool {
        self.files.iter().any(|file| {
            file.module.len() == path.len() && file.module.iter().zip(path).all(|(a, b)| *a == b.as_ref())
        })
    }
}

/// The imported paths that begin with `crate`, `super` or `self`, in a module's code without its tests.
fn imports(text: &str, module: &[&str]) -> Vec<(usize, Vec<String>)> {
    let source = Source::parse(text);
    let code = &source.code[..start_of_unit_tests(&source.code)];
    let mut found = Vec::new();
    for start in ["crate::", "super::", "self::"] {
        for (at, _) in code.match_indices(start) {
            // Skips a part of a longer path: `super::super::` is one path.
            if code[..at].ends_with(is_word) || code[..at].ends_with("::") {
                continue;
            }
            let line = code[..at].matches('\n').count() + 1;
            let mut paths = Vec::new();
            read_import_paths(&code[at..], &mut Vec::new(), &mut paths);
            found.extend(paths.iter().filter_map(|path| Some((line, resolve_import(path, module)?))));
        }
    }
    found
}

/// The position of the inline module with the unit tests, which must be the last part of a file.
fn start_of_unit_tests(code: &str) -> usize {
    code.match_indices("#[cfg(test)]")
        .find(|(at, mark)| {
            let after = code[at + mark.len()..].trim_start();
            after.starts_with("mod ") && after.find('{') < after.find(';')
        })
        .map_or(code.len(), |(at, _)| at)
}

/// Reads the path at the beginning of `code`; a group in braces gives several paths. Returns the length of the code that it read.
fn read_import_paths(code: &str, before: &mut Vec<String>, paths: &mut Vec<Vec<String>>) -> usize {
    let depth = before.len();
    let mut at = 0;
    loop {
        at += code[at..].len() - code[at..].trim_start().len();
        if code[at..].starts_with('{') {
            at += 1;
            while !code[at..].trim_start().starts_with('}') && !code[at..].trim_start().is_empty() {
                at += read_import_paths(&code[at..], before, paths).max(1);
                at += code[at..].len() - code[at..].trim_start_matches([',', ' ', '\n']).len();
            }
            at += code[at..].find('}').map_or(0, |end| end + 1);
            break;
        }
        let length = code[at..].find(|c| !is_word(c)).unwrap_or(code[at..].len());
        before.push(code[at..at + length].to_owned());
        at += length;
        let Some(rest) = code[at..].strip_prefix("::") else {
            paths.push(before.clone());
            break;
        };
        at += 2;
        if !rest.starts_with(|c| is_word(c) || c == '{') {
            paths.push(before.clone());
            break;
        }
    }
    before.truncate(depth);
    at
}

/// Resolves an import in `module` to a path from the crate's root.
fn resolve_import(path: &[String], module: &[&str]) -> Option<Vec<String>> {
    let mut base: Vec<String> = module.iter().map(|part| (*part).to_owned()).collect();
    let mut rest = path;
    while let Some((first, after)) = rest.split_first() {
        match first.as_str() {
            "crate" => base.clear(),
            "self" if rest.len() == path.len() => {}
            "super" => drop(base.pop()?),
            _ => break,
        }
        rest = after;
    }
    base.extend(rest.iter().filter(|part| !matches!(part.as_str(), "self" | "")).cloned());
    Some(base)
}
