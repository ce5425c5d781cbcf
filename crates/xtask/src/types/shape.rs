//! A TypeScript type as ts-rs writes it, taken apart: so much of the language as it uses.

/// A type.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Shape {
    /// A name, a literal, or something with arguments.
    Text(String),
    /// `{ … }`
    Object(Vec<Field>),
    /// `… & …`
    All(Vec<Shape>),
    /// `… | …`
    Any(Vec<Shape>),
}

/// A field of an object.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Field {
    /// What the docs say, without the marks of a comment.
    pub(super) docs: String,
    /// With its `?` if it may be absent.
    pub(super) name: String,
    /// Its type.
    pub(super) shape: Shape,
}

/// Takes a type apart. What ts-rs writes is understood; anything else is a mistake in here.
pub(super) fn parse(text: &str) -> Shape {
    let mut rest = Rest(text.trim());
    let shape = rest.any();
    assert!(rest.0.is_empty(), "not understood: {}", rest.0);
    shape
}

/// What a comment says.
pub(super) fn said(comment: &str) -> String {
    let inner = comment.trim().trim_start_matches("/**").trim_end_matches("*/").trim();
    let lines: Vec<_> = inner.lines().map(|line| line.trim().trim_start_matches('*').trim()).collect();
    lines.join("\n")
}

/// What is still to be read.
struct Rest<'a>(&'a str);

impl Rest<'_> {
    /// Whether this comes next, in which case it is passed.
    fn takes(&mut self, token: &str) -> bool {
        let found = self.0.strip_prefix(token);
        self.0 = found.unwrap_or(self.0).trim_start();
        found.is_some()
    }

    fn expects(&mut self, token: &str) {
        assert!(self.takes(token), "`{token}` expected at: {}", self.0);
    }

    /// Everything before one of these.
    fn until(&mut self, ends: &[char]) -> String {
        let mut depth = 0;
        let end = self.0.find(|c: char| {
            depth += i32::from(c == '<') - i32::from(c == '>');
            depth == 0 && ends.contains(&c)
        });
        let (text, rest) = self.0.split_at(end.unwrap_or(self.0.len()));
        self.0 = rest;
        text.trim().to_owned()
    }

    fn any(&mut self) -> Shape {
        let mut shapes = vec![self.all()];
        while self.takes("|") {
            shapes.push(self.all());
        }
        if shapes.len() == 1 { shapes.remove(0) } else { Shape::Any(shapes) }
    }

    fn all(&mut self) -> Shape {
        let mut shapes = vec![self.one()];
        while self.takes("&") {
            shapes.push(self.one());
        }
        if shapes.len() == 1 { shapes.remove(0) } else { Shape::All(shapes) }
    }

    fn one(&mut self) -> Shape {
        if self.takes("(") {
            let shape = self.any();
            self.expects(")");
            return shape;
        }
        if !self.takes("{") {
            return Shape::Text(self.until(&['|', '&', ',', '}', ')']));
        }
        if self.takes("[key in ") {
            let key = self.until(&[']']);
            self.expects("]:");
            let value = self.until(&['}']);
            self.expects("}");
            return Shape::Text(format!("Record<{key}, {value}>"));
        }
        let mut fields = Vec::new();
        while !self.takes("}") {
            fields.push(self.field());
        }
        Shape::Object(fields)
    }

    fn field(&mut self) -> Field {
        let mut docs = String::new();
        if let Some(end) = self.0.starts_with("/**").then(|| self.0.find("*/")).flatten() {
            docs = said(&self.0[..end]);
            self.0 = self.0[end + 2..].trim_start();
        }
        let name = self.until(&[':']).trim_matches('"').to_owned();
        self.expects(":");
        let shape = self.any();
        self.takes(",");
        Field { docs, name, shape }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Shape {
        Shape::Text(text.to_owned())
    }

    #[test]
    fn a_type_is_taken_apart() {
        let field = |docs: &str, name: &str, shape| Field { docs: docs.into(), name: name.into(), shape };
        assert_eq!(parse(" string"), text("string"));
        assert_eq!(parse("Record<symbol, never>"), text("Record<symbol, never>"));
        assert_eq!(parse("{ [key in string]: Array<A> }"), text("Record<string, Array<A>>"));
        assert_eq!(
            parse("{ \"type\": \"a\", \n/**\n * One, {two} |\n * three.\n */\nb?: Array<B>, } & (C | \"d\")"),
            Shape::All(vec![
                Shape::Object(vec![
                    field("", "type", text("\"a\"")),
                    field("One, {two} |\nthree.", "b?", text("Array<B>")),
                ]),
                Shape::Any(vec![text("C"), text("\"d\"")]),
            ])
        );
    }
}
