//! Files and words that an operator gives: settings of the server, transactions of `cfgctl`.

use cfgctl::txn_file;
use cfgsvc::options::{self, SETTINGS, Texts};

use crate::draw::Draw;

/// Flags, environment and settings file. Whatever is accepted can be used.
pub(crate) fn server_options(data: &[u8]) {
    let mut draw = Draw::new(data);
    let flags: Vec<String> = (0..draw.below(4)).map(|_| flag(&mut draw)).collect();
    let mut environment = Texts::new();
    for _ in 0..draw.below(3) {
        let setting = draw.below(SETTINGS.len() as u64 + 1);
        let setting = SETTINGS.get(usize::try_from(setting).unwrap_or(0));
        let name = setting.map_or_else(
            || draw.text(8),
            |setting| setting.name.to_ascii_uppercase().replace('-', "_"),
        );
        let name = format!("{}{name}", options::ENVIRONMENT_PREFIX);
        environment.insert(name, value(&mut draw));
    }
    let words = std::iter::once("cfgsvcd".to_owned()).chain(flags);
    let flags = match options::command().try_get_matches_from(words) {
        Ok(matches) => options::flag_texts(&matches),
        Err(error) => {
            assert!(!error.to_string().is_empty());
            Texts::new()
        }
    };
    let text = String::from_utf8_lossy(draw.rest());
    let file = match options::file_texts(&text) {
        Ok(texts) => texts,
        Err(problems) => {
            assert!(!problems.is_empty());
            assert!(problems.iter().all(|one| !one.to_string().is_empty()));
            Texts::new()
        }
    };
    match options::resolve(&flags, &environment, &file) {
        Ok(settings) => assert!(!format!("{settings:?}").is_empty()),
        Err(problems) => {
            assert!(!problems.is_empty());
            assert!(problems.iter().all(|one| !one.to_string().is_empty()));
        }
    }
    if let Ok(address) = options::host_port(&text) {
        let uri: Result<tonic::transport::Uri, _> = format!("http://{address}").parse();
        assert!(uri.is_ok(), "accepted and not reachable: {address}");
    }
}

fn flag(draw: &mut Draw<'_>) -> String {
    let setting = draw.below(SETTINGS.len() as u64 + 1);
    match SETTINGS.get(usize::try_from(setting).unwrap_or(0)) {
        Some(setting) => format!("--{}={}", setting.name, value(draw)),
        None => draw.text(16),
    }
}

fn value(draw: &mut Draw<'_>) -> String {
    const LIKELY: [&str; 10] = [
        "n1",
        "127.0.0.1:2379",
        "n1=127.0.0.1:1,n2=[::1]:2",
        "true",
        "24h",
        "512MiB",
        "18446744073709551615d",
        "17179869184TiB",
        "10000",
        "0",
    ];
    let likely = draw.below(LIKELY.len() as u64 + 2);
    match LIKELY.get(usize::try_from(likely).unwrap_or(0)) {
        Some(likely) => (*likely).to_owned(),
        None => draw.text(32),
    }
}

/// A transaction in a file. An error lies in the file, or just behind it.
pub(crate) fn txn_file(data: &[u8]) {
    let file = String::from_utf8_lossy(data);
    match txn_file::parse(&file) {
        Ok(txn) => assert!(txn.ops() <= data.len()),
        Err(error) => {
            let lines = file.split('\n').count();
            assert!((1..=lines).contains(&error.line), "{error}");
            assert!((1..=file.len() + 1).contains(&error.column), "{error}");
        }
    }
}
