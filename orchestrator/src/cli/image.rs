//! `orchestrator image`: the images of this node, also while `up` runs.

use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, ensure};

use super::args::Image;
use super::root;
use crate::kubelet::images::ImageStore;
use crate::up::config::absolute;
use crate::up::data_dir::DataDir;

/// Runs one image command.
pub fn run(command: &Image) -> anyhow::Result<()> {
    match command {
        Image::Import(args) => {
            ensure!(args.path.exists(), "{}: no such file or directory", args.path.display());
            root::require("importing an image (its files keep their owners)")?;
            import(&open(&args.data.data_dir)?, &args.path, args.name.as_deref())
        }
        Image::Ls(args) => {
            root::require("reading the images")?;
            list(&open(&args.data.data_dir)?)
        }
        Image::Rm(args) => {
            root::require("removing an image")?;
            open(&args.data.data_dir)?.remove(&args.name).map_err(Into::into)
        }
    }
}

fn open(data_dir: &Path) -> anyhow::Result<ImageStore> {
    let data_dir = absolute(data_dir)?;
    DataDir::prepare(&data_dir)?;
    Ok(ImageStore::open(images_dir(&data_dir))?)
}

/// Where a data directory keeps its images.
pub fn images_dir(data_dir: &Path) -> std::path::PathBuf {
    data_dir.join("images")
}

fn import(store: &ImageStore, path: &Path, name: Option<&str>) -> anyhow::Result<()> {
    let imported = store.import(path, name).context("nothing was imported")?;
    let mut out = std::io::stdout().lock();
    for image in imported {
        let layers = if image.layers == 1 { "layer" } else { "layers" };
        writeln!(out, "imported {} ({} {layers}, {})", image.name, image.layers, image.digest)?;
    }
    Ok(())
}

fn list(store: &ImageStore) -> anyhow::Result<()> {
    let images = store.list()?;
    let width = images.iter().map(|image| image.name.len()).max().unwrap_or(0).max(4);
    let mut out = std::io::stdout().lock();
    writeln!(out, "{:<width$}  {:<12}  {:>9}", "NAME", "DIGEST", "SIZE")?;
    for image in images {
        let digest = image.digest.strip_prefix("sha256:").unwrap_or(&image.digest);
        let short = digest.get(..12).unwrap_or(digest);
        writeln!(out, "{:<width$}  {short:<12}  {:>9}", image.name, size(image.size))?;
    }
    Ok(())
}

/// Bytes for people: `17 B`, `4.0 kB`, `1.2 GB`.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut tenths = bytes / 100;
    let mut unit = 0;
    while tenths >= 10_000 && unit + 1 < UNITS.len() {
        tenths /= 1000;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_are_short() {
        assert_eq!(size(17), "17 B");
        assert_eq!(size(4_096), "4.0 kB");
        assert_eq!(size(999_949), "999.9 kB");
        assert_eq!(size(1_234_567_890), "1.2 GB");
    }
}
