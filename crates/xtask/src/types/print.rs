//! Prints types as a person would write them: indented, one field on each line.

use super::shape::{Field, Shape};

/// The longest line of the generated file, in bytes.
const MAX_LINE: usize = 110;

/// Prints a declaration `export type …` with its docs.
pub(super) fn print_declaration(docs: &str, name: &str, shape: &Shape) -> String {
    let head = format!("export type {name} =");
    let mut out = print_comment(docs, 0);
    match shape {
        Shape::Union(shapes) => match print_on_one_line(shape) {
            Some(line) if head.len() + line.len() < MAX_LINE => out += &format!("{head} {line};\n"),
            _ => out += &format!("{head}{};\n", print_alternatives(shapes, 1)),
        },
        _ => out += &format!("{head} {};\n", print(shape, 0)),
    }
    out
}

/// The docs as an indented doc comment; empty if there are no docs.
fn print_comment(docs: &str, depth: usize) -> String {
    let indent = "  ".repeat(depth);
    // Replaces links of rustdoc and paths of Rust by plain names.
    let docs = docs.replace("[`crate::", "`").replace("[`", "`").replace("`]", "`").replace("::", ".");
    match docs.lines().count() {
        0 => String::new(),
        1 => format!("{indent}/** {docs} */\n"),
        _ => {
            let lines: String =
                docs.lines().map(|line| format!("{indent} * {line}").trim_end().to_owned() + "\n").collect();
            format!("{indent}/**\n{lines}{indent} */\n")
        }
    }
}

fn print(shape: &Shape, depth: usize) -> String {
    let indent = "  ".repeat(depth);
    match (shape, print_on_one_line(shape)) {
        (_, Some(line)) if line.len() + indent.len() < MAX_LINE => line,
        (Shape::Text(text), _) => text.clone(),
        (Shape::Object(fields), _) => {
            let fields: String = fields.iter().map(|field| print_field(field, depth + 1)).collect();
            format!("{{\n{fields}{indent}}}")
        }
        (Shape::Intersection(shapes), _) => {
            let parts: Vec<_> = shapes.iter().map(|shape| print(shape, depth)).collect();
            parts.join(" & ")
        }
        (Shape::Union(shapes), _) => format!("({}\n{indent})", print_alternatives(shapes, depth + 1)),
    }
}

/// The members of a union, one on each line.
fn print_alternatives(shapes: &[Shape], depth: usize) -> String {
    let indent = "  ".repeat(depth);
    shapes.iter().map(|shape| format!("\n{indent}| {}", print(shape, depth + 1))).collect()
}

fn print_field(Field { docs, name, shape }: &Field, depth: usize) -> String {
    format!("{}{}{name}: {};\n", print_comment(docs, depth), "  ".repeat(depth), print(shape, depth))
}

/// Prints a type on one line; `None` if it has docs, which need lines of their own.
fn print_on_one_line(shape: &Shape) -> Option<String> {
    let each = |shapes: &[Shape]| shapes.iter().map(print_on_one_line).collect::<Option<Vec<_>>>();
    Some(match shape {
        Shape::Text(text) => text.clone(),
        Shape::Object(fields) => {
            let fields = fields.iter().map(|Field { docs, name, shape }| {
                docs.is_empty().then(|| Some(format!("{name}: {}", print_on_one_line(shape)?))).flatten()
            });
            format!("{{ {} }}", fields.collect::<Option<Vec<_>>>()?.join("; "))
        }
        Shape::Intersection(shapes) => each(shapes)?.join(" & "),
        Shape::Union(shapes) => each(shapes)?.join(" | "),
    })
}

#[cfg(test)]
mod tests {
    use super::super::shape::parse;
    use super::*;

    #[test]
    fn a_type_with_docs_has_a_line_for_each_field() {
        let shape =
            parse("{ \n/**\n * Why, see [`crate::A::b`].\n */\na: A, \n/**\n * One\n * two.\n */\nb: B, }");
        assert_eq!(
            print_declaration("Both.", "X", &shape),
            "/** Both. */\nexport type X = {\n  /** Why, see `A.b`. */\n  a: A;\n  /**\n   * One\n   * two.\n   */\n  b: B;\n};\n"
        );
    }

    #[test]
    fn a_type_that_fits_is_printed_on_one_line() {
        assert_eq!(
            print_declaration("", "X", &parse(r#""a" | { "type": "b", } & B"#)),
            "export type X = \"a\" | { type: \"b\" } & B;\n"
        );
        let long = "a".repeat(MAX_LINE);
        assert_eq!(
            print_declaration("", "X", &parse(&format!("A | {long}"))),
            format!("export type X =\n  | A\n  | {long};\n")
        );
        assert_eq!(
            print_declaration("", "X", &parse(&format!("A & (B | {long})"))),
            format!("export type X = A & (\n  | B\n  | {long}\n);\n")
        );
    }
}
