//! The web turned round: for each target the pages that link to it, of a directory of HTML files. A
//! target is as the link has it, without its fragment; a page is the name of its file. The pages of
//! a target are in order, each once.

use mapreduce::{AnyJob, Bytes, Emit, Job, Lists, Result, WholeFiles, map_fn};
use regex::bytes::Regex;

/// An anchor's address, in quotes of either kind or without.
const HREF: &str = r#"(?is)<a\s[^>]*?\bhref\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'>]+))"#;

fn links(href: &Regex, page: &str, html: &[u8], out: &mut Emit<'_, Bytes, Bytes>) -> Result<()> {
    for found in href.captures_iter(html) {
        let address = found.iter().skip(1).flatten().next();
        let address = address.map_or(&b""[..], |address| address.as_bytes());
        let target = address.split(|octet| *octet == b'#').next();
        if let Some(target) = target.filter(|target| !target.is_empty()) {
            out.emit(target, page.as_bytes())?;
        }
    }
    Ok(())
}

/// The job.
pub(crate) fn job() -> AnyJob {
    let href = Regex::new(HREF).expect("it is a pattern");
    let mapper = move || {
        let href = href.clone();
        map_fn(
            WholeFiles,
            move |page: &str, html: &[u8], out: &mut Emit<'_, _, _>| links(&href, page, html, out),
        )
    };
    Job::new("linkgraph", WholeFiles, mapper, || Lists)
        .combine(|| Lists)
        .about("for each target of a link the HTML files that have it")
        .into()
}
