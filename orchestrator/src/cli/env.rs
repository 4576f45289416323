//! `orchestrator env`: the variables that point `etcdctl` and `kubectl` at the cluster.

use std::io::Write as _;
use std::path::Path;

use anyhow::Context as _;

use super::args;
use crate::up::config::absolute;
use crate::up::record::Record;

/// Prints one `export` line per variable, quoted for a shell.
pub fn run(args: &args::Env) -> anyhow::Result<()> {
    let data_dir = absolute(&args.data.data_dir)?;
    let record = Record::read(&data_dir)
        .with_context(|| format!("cannot read data directory {}", data_dir.display()))?
        .with_context(|| {
            format!("{} holds no cluster yet; `orchestrator up` makes one", data_dir.display())
        })?;
    std::io::stdout().write_all(exports(&record).as_bytes())?;
    Ok(())
}

fn exports(record: &Record) -> String {
    let mut lines = String::new();
    let mut export = |name: &str, value: &str| {
        lines.push_str(&format!("export {name}={}\n", quote(value)));
    };
    let text = |path: &Path| path.to_string_lossy().into_owned();
    export("ETCDCTL_API", "3");
    export("ETCDCTL_ENDPOINTS", &record.store.endpoints.join(","));
    let files = [
        ("ETCDCTL_CACERT", &record.store.cacert),
        ("ETCDCTL_CERT", &record.store.cert),
        ("ETCDCTL_KEY", &record.store.key),
    ];
    for (name, file) in files {
        if let Some(file) = file {
            export(name, &text(file));
        }
    }
    if let Some(kubeconfig) = &record.kubeconfig {
        export("KUBECONFIG", &text(&kubeconfig.path));
    }
    lines
}

/// Plain words stay as they are; everything else goes into single quotes.
pub fn quote(value: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./:,=@%+".contains(&byte);
    if !value.is_empty() && value.bytes().all(plain) {
        return value.to_owned();
    }
    format!("'{}'", value.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::up::record::{KubeconfigEntry, StoreAccess};

    #[test]
    fn exports_are_safe_for_a_shell() {
        let record = Record {
            store: StoreAccess {
                endpoints: vec!["https://127.0.0.1:2379".into()],
                cacert: Some("/a b/ca.crt".into()),
                ..StoreAccess::default()
            },
            kubeconfig: Some(KubeconfigEntry { path: "/it's".into(), context: String::new() }),
            node: None,
        };
        assert_eq!(
            exports(&record),
            "export ETCDCTL_API=3\n\
             export ETCDCTL_ENDPOINTS=https://127.0.0.1:2379\n\
             export ETCDCTL_CACERT='/a b/ca.crt'\n\
             export KUBECONFIG='/it'\\''s'\n"
        );
    }
}
