//! What names, label keys and values may look like: DNS labels and subdomains, qualified names.
//!
//! Each check answers the complaints in Kubernetes' words, none when all is well.

/// Longest DNS label.
pub const LABEL_MAX: usize = 63;
/// Longest DNS subdomain.
pub const SUBDOMAIN_MAX: usize = 253;

const SUBDOMAIN_TEXT: &str = "a lowercase RFC 1123 subdomain must consist of lower case \
    alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character \
    (e.g. 'example.com', regex used for validation is \
    '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL_TEXT: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric \
    characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or \
    '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const LABEL_1035_TEXT: &str = "a DNS-1035 label must consist of lower case alphanumeric \
    characters or '-', start with an alphabetic character, and end with an alphanumeric character \
    (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const QUALIFIED_TEXT: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', \
    and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or \
    '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const VALUE_TEXT: &str = "a valid label must be an empty string or consist of alphanumeric \
    characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. \
    'MyValue',  or 'my_value',  or '12345', regex used for validation is \
    '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const CONFIG_KEY_TEXT: &str = "a valid config key must consist of alphanumeric characters, '-', \
    '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is \
    '[-._a-zA-Z0-9]+')";
const PORT_NAME_TEXT: [&str; 4] = [
    "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
    "must contain at least one letter (a-z)",
    "must not contain consecutive hyphens",
    "must not begin or end with a hyphen",
];

fn too_long(max: usize) -> String {
    format!("must be no more than {max} characters")
}

fn bytes_too_long(max: usize) -> String {
    format!("must be no more than {max} bytes")
}

fn is_label(text: &str) -> bool {
    let edge =
        |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = text.as_bytes();
    edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
}

fn is_word(text: &str) -> bool {
    let bytes = text.as_bytes();
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
}

fn complain(complaints: [(bool, String); 2]) -> Vec<String> {
    complaints.into_iter().filter_map(|(wrong, text)| wrong.then_some(text)).collect()
}

/// Names of most objects.
pub fn dns_subdomain(name: &str) -> Vec<String> {
    complain([
        (name.len() > SUBDOMAIN_MAX, too_long(SUBDOMAIN_MAX)),
        (!name.split('.').all(is_label), SUBDOMAIN_TEXT.into()),
    ])
}

/// Names of namespaces and containers.
pub fn dns_label(name: &str) -> Vec<String> {
    complain([(name.len() > LABEL_MAX, too_long(LABEL_MAX)), (!is_label(name), LABEL_TEXT.into())])
}

/// Names of services, which must not begin with a digit.
pub fn dns_1035_label(name: &str) -> Vec<String> {
    let letter_first = name.starts_with(|c: char| c.is_ascii_lowercase());
    complain([
        (name.len() > LABEL_MAX, too_long(LABEL_MAX)),
        (!(is_label(name) && letter_first), LABEL_1035_TEXT.into()),
    ])
}

/// Keys of labels and annotations, names of finalizers and resources: `[prefix/]name`.
pub fn qualified_name(name: &str) -> Vec<String> {
    let (prefix, word) = match name.split('/').collect::<Vec<_>>().as_slice() {
        [word] => (None, *word),
        [prefix, word] => (Some(*prefix), *word),
        _ => {
            return vec![format!(
                "a qualified name must consist of alphanumeric characters, '-', '_' or '.', and \
                 must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  \
                 or '123-abc', regex used for validation is \
                 '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix \
                 and '/' (e.g. 'example.com/MyName')"
            )];
        }
    };
    let mut complaints = Vec::new();
    match prefix {
        Some("") => complaints.push("prefix part must be non-empty".into()),
        Some(prefix) => {
            complaints
                .extend(dns_subdomain(prefix).into_iter().map(|c| format!("prefix part {c}")));
        }
        None => {}
    }
    if word.is_empty() {
        complaints.push("name part must be non-empty".into());
    } else if word.len() > LABEL_MAX {
        complaints.push(format!("name part {}", bytes_too_long(LABEL_MAX)));
    }
    if !is_word(word) {
        complaints.push(QUALIFIED_TEXT.into());
    }
    complaints
}

/// Values of labels.
pub fn label_value(value: &str) -> Vec<String> {
    complain([
        (value.len() > LABEL_MAX, bytes_too_long(LABEL_MAX)),
        (!value.is_empty() && !is_word(value), VALUE_TEXT.into()),
    ])
}

/// Keys in the data of ConfigMaps and Secrets.
pub fn config_key(key: &str) -> Vec<String> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    let mut complaints = complain([
        (key.len() > SUBDOMAIN_MAX, too_long(SUBDOMAIN_MAX)),
        (key.is_empty() || !key.bytes().all(legal), CONFIG_KEY_TEXT.into()),
    ]);
    match key {
        "." => complaints.push("must not be '.'".into()),
        ".." => complaints.push("must not be '..'".into()),
        _ if key.starts_with("..") => complaints.push("must not start with '..'".into()),
        _ => {}
    }
    complaints
}

/// Names of ports of containers.
pub fn port_name(name: &str) -> Vec<String> {
    const MAX: usize = 15;
    let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let wrong = [
        !name.bytes().all(legal),
        !name.bytes().any(|b| b.is_ascii_lowercase()),
        name.contains("--"),
        name.is_empty() || name.starts_with('-') || name.ends_with('-'),
    ];
    let mut complaints = if name.len() > MAX { vec![too_long(MAX)] } else { Vec::new() };
    let texts = wrong.into_iter().zip(PORT_NAME_TEXT);
    complaints.extend(texts.filter(|(wrong, _)| *wrong).map(|(_, text)| text.to_owned()));
    complaints
}

/// Names of environment variables: anything printable but `=`.
pub fn env_name(name: &str) -> Vec<String> {
    let legal = |b: u8| (b' '..=b'~').contains(&b) && b != b'=';
    if name.bytes().all(legal) {
        return Vec::new();
    }
    vec![
        "a valid environment variable name must consist only of printable ASCII characters other \
         than '='"
            .into(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subdomains_and_labels() {
        for good in ["a", "a-b.c", "0", "a1.b2"] {
            assert!(dns_subdomain(good).is_empty(), "{good}");
        }
        for bad in ["", "A", "-a", "a-", "a..b", "a_b", ".a", &"a".repeat(254)] {
            assert!(!dns_subdomain(bad).is_empty(), "{bad}");
        }
        assert!(dns_label("a.b").len() == 1);
        assert!(dns_1035_label("1a").len() == 1 && dns_1035_label("a1").is_empty());
    }

    #[test]
    fn qualified_names_and_values() {
        for good in ["app", "example.com/My_App.v1", "a/b"] {
            assert!(qualified_name(good).is_empty(), "{good}");
        }
        for bad in ["", "/a", "a/", "a/b/c", "_a", "A.com/x/", "UPPER.com/x"] {
            assert!(!qualified_name(bad).is_empty(), "{bad}");
        }
        assert!(label_value("").is_empty() && label_value("a_B.c-1").is_empty());
        assert!(!label_value("-a").is_empty() && !label_value(&"a".repeat(64)).is_empty());
    }

    #[test]
    fn keys_ports_and_variables() {
        assert!(config_key("a.B_c-1").is_empty());
        assert!(!config_key("..").is_empty() && !config_key("a/b").is_empty());
        assert!(port_name("http").is_empty() && port_name("p-1").is_empty());
        for bad in ["", "80", "-a", "a--b", "HTTP", "far-too-long-name"] {
            assert!(!port_name(bad).is_empty(), "{bad}");
        }
        assert!(env_name("A_B.c").is_empty() && !env_name("A=B").is_empty());
    }
}
