//! Gives each variant of `OkBody` a name of its own in TypeScript, because ts-rs writes an untagged enum's variants
//! without names.

use switchboard_protocol::Event;
use switchboard_protocol::reply::OkBody;
use ts_rs::{Config, TS};

use super::print::print_declaration;
use super::shape::{self, Shape};

/// Parses the variants.
fn body_variants(config: &Config) -> Vec<Shape> {
    let Shape::Union(variants) = shape::parse(&OkBody::<Event>::inline(config)) else {
        unreachable!("OkBody has several variants")
    };
    variants
}

/// Declares each variant, then the union of all.
pub(super) fn declare_body_types(config: &Config, docs: &str) -> String {
    let all = OkBody::<Event>::ALL;
    let each = all.iter().zip(body_variants(config));
    let each = each.map(|((name, _, docs), variant)| {
        print_declaration(docs.trim(), &format!("{name}Body"), &variant) + "\n"
    });
    let names = all.iter().map(|(name, ..)| Shape::Text(format!("{name}Body"))).collect();
    each.collect::<String>() + &print_declaration(docs, "OkBody", &Shape::Union(names))
}

/// Replaces the inlined variants by the type name `OkBody`.
pub(super) fn by_name(config: &Config, shape: Shape) -> Shape {
    match shape {
        Shape::Intersection(parts) => {
            Shape::Intersection(parts.into_iter().map(|part| by_name(config, part)).collect())
        }
        Shape::Union(parts) if parts == body_variants(config) => Shape::Text("OkBody".to_owned()),
        other => other,
    }
}
