//! Parses a TypeScript type as ts-rs writes it. Only the syntax that ts-rs uses is supported.

/// The structure of a TypeScript type.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Shape {
    /// A type without a structure that matters here: a name, a literal, or a generic type with its arguments.
    Text(String),
    /// An object type: `{ … }`.
    Object(Vec<Field>),
    /// An intersection of types: `… & …`.
    Intersection(Vec<Shape>),
    /// A union of types: `… | …`.
    Union(Vec<Shape>),
}

/// A field of an object.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Field {
    /// The field's docs, without the marks of a comment.
    pub(super) docs: String,
    /// The field's name, followed by `?` if the field is optional.
    pub(super) name: String,
    pub(super) shape: Shape,
}

/// Parses a type. Panics on syntax that ts-rs does not use today.
pub(super) fn parse(text: &str) -> Shape {
    let mut rest = ShapeParser(text.trim());
    let shape = rest.parse_union();
    assert!(rest.0.is_empty(), "cannot parse: {}", rest.0);
    shape
}

/// The text of a doc comment without its marks.
pub(super) fn comment_text(comment: &str) -> String {
    let inner = comment.trim().trim_start_matches("/**").trim_end_matches("*/").trim();
    let lines: Vec<_> = inner.lines().map(|line| line.trim().trim_start_matches('*').trim()).collect();
    lines.join("\n")
}

/// The part of a type's text that has not been parsed yet.
struct ShapeParser<'a>(&'a str);

impl ShapeParser<'_> {
    /// Skips this token if it comes next. Returns whether it did.
    fn accept(&mut self, token: &str) -> bool {
        let found = self.0.strip_prefix(token);
        self.0 = found.unwrap_or(self.0).trim_start();
        found.is_some()
    }

    fn expect(&mut self, token: &str) {
        assert!(self.accept(token), "`{token}` expected at: {}", self.0);
    }

    /// Returns the text before the first of these characters, and skips it.
    fn take_until(&mut self, ends: &[char]) -> String {
        let mut depth = 0;
        let end = self.0.find(|c: char| {
            depth += i32::from(c == '<') - i32::from(c == '>');
            depth == 0 && ends.contains(&c)
        });
        let (text, rest) = self.0.split_at(end.unwrap_or(self.0.len()));
        self.0 = rest;
        text.trim().to_owned()
    }

    fn parse_union(&mut self) -> Shape {
        let mut shapes = vec![self.parse_intersection()];
        while self.accept("|") {
            shapes.push(self.parse_intersection());
        }
        if shapes.len() == 1 { shapes.remove(0) } else { Shape::Union(shapes) }
    }

    fn parse_intersection(&mut self) -> Shape {
        let mut shapes = vec![self.parse_single()];
        while self.accept("&") {
            shapes.push(self.parse_single());
        }
        if shapes.len() == 1 { shapes.remove(0) } else { Shape::Intersection(shapes) }
    }

    fn parse_single(&mut self) -> Shape {
        if self.accept("(") {
            let shape = self.parse_union();
            self.expect(")");
            return shape;
        }
        if !self.accept("{") {
            return Shape::Text(self.take_until(&['|', '&', ',', '}', ')']));
        }
        if self.accept("[key in ") {
            let key = self.take_until(&[']']);
            self.expect("]:");
            let value = self.take_until(&['}']);
            self.expect("}");
            return Shape::Text(format!("Record<{key}, {value}>"));
        }
        let mut fields = Vec::new();
        while !self.accept("}") {
            fields.push(self.parse_field());
        }
        Shape::Object(fields)
    }

    fn parse_field(&mut self) -> Field {
        let mut docs = String::new();
        if let Some(end) = self.0.starts_with("/**").then(|| self.0.find("*/")).flatten() {
            docs = comment_text(&self.0[..end]);
            self.0 = self.0[end + 2..].trim_start();
        }
        let name = self.take_until(&[':']).trim_matches('"').to_owned();
        self.expect(":");
        let shape = self.parse_union();
        self.accept(",");
        Field { docs, name, shape }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text_shape(text: &str) -> Shape {
        Shape::Text(text.to_owned())
    }

    #[test]
    fn a_type_is_parsed_into_objects_unions_and_intersections() {
        let field = |docs: &str, name: &str, shape| Field { docs: docs.into(), name: name.into(), shape };
        assert_eq!(parse(" string"), text_shape("string"));
        assert_eq!(parse("Record<symbol, never>"), text_shape("Record<symbol, never>"));
        assert_eq!(parse("{ [key in string]: Array<A> }"), text_shape("Record<string, Array<A>>"));
        assert_eq!(
            parse("{ \"type\": \"a\", \n/**\n * One, {two} |\n * three.\n */\nb?: Array<B>, } & (C | \"d\")"),
            Shape::Intersection(vec![
                Shape::Object(vec![
                    field("", "type", text_shape("\"a\"")),
                    field("One, {two} |\nthree.", "b?", text_shape("Array<B>")),
                ]),
                Shape::Union(vec![text_shape("C"), text_shape("\"d\"")]),
            ])
        );
    }
}
