//! The web turned round: for each target the pages that link to it, of a directory of HTML files. A
//! target is as the link has it, without its fragment, blanks at its ends, TABs and ends of lines,
//! as browsers take it; a page is the name of its file, where a TAB is `%09` and the end of a line
//! `%0A`. The pages of a target are in order, each once; its line is made in memory.

use mapreduce::{AnyJob, Bytes, Emit, Job, Lists, Result, WholeFiles, map_fn};
use regex::bytes::Regex;

/// An anchor's address, in quotes of either kind or without. Pages are octets in any encoding.
const HREF: &str = r#"(?is-u)<a\s(?:[^>]*?\s)?href\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'>]+))"#;

fn links(href: &Regex, page: &str, html: &[u8], out: &mut Emit<'_, Bytes, Bytes>) -> Result<()> {
    let page = page.replace('\t', "%09").replace('\n', "%0A");
    let mut target = Vec::new();
    for found in href.captures_iter(html) {
        let address = found.iter().skip(1).flatten().next();
        let address = address.map_or(&b""[..], |address| address.as_bytes());
        // https://url.spec.whatwg.org/#concept-basic-url-parser
        let is_blank = |octet: &u8| *octet <= b' ';
        let first = address.iter().position(|octet| !is_blank(octet));
        let last = address.iter().rposition(|octet| !is_blank(octet));
        let (Some(first), Some(last)) = (first, last) else {
            continue;
        };
        let address = address[first..=last].split(|octet| *octet == b'#').next();
        let address = address.unwrap_or_default().iter();
        target.clear();
        target.extend(address.filter(|octet| !b"\t\r\n".contains(octet)));
        if !target.is_empty() {
            out.emit(&target, page.as_bytes())?;
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
