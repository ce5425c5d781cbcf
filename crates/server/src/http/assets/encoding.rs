//! Negotiates the content encoding of a file (RFC 9110 section 12.5.3).

use axum::http::{HeaderMap, header};

/// The content encodings in which the build stores each file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http) enum Encoding {
    Brotli,
    Gzip,
    Identity,
}

impl Encoding {
    /// All encodings, the smallest first.
    pub(super) const ALL: [Self; 3] = [Self::Brotli, Self::Gzip, Self::Identity];

    /// The suffix of the encoded file's name.
    pub(super) fn suffix(self) -> &'static str {
        match self {
            Self::Brotli => ".br",
            Self::Gzip => ".gz",
            Self::Identity => "",
        }
    }

    /// The name of the encoding in `Content-Encoding`; `None` for the plain file.
    pub(super) fn name(self) -> Option<&'static str> {
        match self {
            Self::Brotli => Some("br"),
            Self::Gzip => Some("gzip"),
            Self::Identity => None,
        }
    }
}

/// The encodings that a client accepts, the smallest first. Always ends with the plain file, even if the client excludes it,
/// because that is better than no page.
pub(in crate::http) fn accepted_encodings(headers: &HeaderMap) -> Vec<Encoding> {
    let values = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    let codings: Vec<_> = values.flat_map(|value| value.split(',')).map(parse_coding).collect();
    let accepts = |name: &str| {
        let named = codings.iter().find(|(coding, _)| coding.eq_ignore_ascii_case(name));
        named.or_else(|| codings.iter().find(|(coding, _)| *coding == "*")).is_some_and(|(_, weight)| *weight)
    };
    Encoding::ALL.into_iter().filter(|encoding| encoding.name().is_none_or(&accepts)).collect()
}

/// Parses the name of a coding, and whether the client accepts it. A weight of 0, as in `gzip;q=0`, means that it does not.
fn parse_coding(item: &str) -> (&str, bool) {
    let (coding, parameters) = item.split_once(';').unwrap_or((item, ""));
    let weight = parameters
        .split(';')
        .find_map(|p| p.trim().strip_prefix(['q', 'Q'])?.strip_prefix('='))
        .map_or(1.0, |q| q.parse().unwrap_or(0.0));
    (coding.trim(), weight > 0.0_f32)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn accepted_encodings_are_sorted_by_size_and_end_with_the_plain_file() {
        use Encoding::{Brotli, Gzip, Identity};
        for (accept, wanted) in [
            ("", vec![Identity]),
            ("gzip", vec![Gzip, Identity]),
            ("gzip, deflate, br, zstd", vec![Brotli, Gzip, Identity]),
            ("br;q=0, gzip;q=0.5", vec![Gzip, Identity]),
            ("GZIP ; q=1.0", vec![Gzip, Identity]),
            ("*", vec![Brotli, Gzip, Identity]),
            ("*;q=0, br", vec![Brotli, Identity]),
            ("br;q=x", vec![Identity]),
            ("br; Q=0, gzip", vec![Gzip, Identity]),
            ("identity;q=0, gzip;q=0.000", vec![Identity]),
            ("identity", vec![Identity]),
        ] {
            let headers = HeaderMap::from_iter([(header::ACCEPT_ENCODING, HeaderValue::from_static(accept))]);
            assert_eq!(accepted_encodings(&headers), wanted, "{accept}");
        }
    }
}
