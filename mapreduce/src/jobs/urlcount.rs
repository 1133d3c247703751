//! How often each address was asked for, by the access logs of a web server (the common and the
//! combined format, of Apache and nginx): the second field of the request. A line that has none is
//! counted and passed over.

use mapreduce::{AnyJob, Bytes, Emit, Job, Lines, Mapper, Result, Sum, U64};

struct Requests;

/// `METHOD ADDRESS PROTOCOL` between the first quotes.
fn address(line: &[u8]) -> Option<&[u8]> {
    let request = line.split(|octet| *octet == b'"').nth(1)?;
    let mut fields = request.split(|octet| *octet == b' ');
    let (_method, address) = (fields.next()?, fields.next()?);
    (!address.is_empty()).then_some(address)
}

impl Mapper for Requests {
    type InKey = U64;
    type InValue = Bytes;
    type Key = Bytes;
    type Value = U64;

    fn map(&mut self, _at: u64, line: &[u8], out: &mut Emit<'_, Bytes, U64>) -> Result<()> {
        if let Some(address) = address(line) {
            return out.emit(address, 1);
        }
        out.count("urlcount", "lines without a request", 1);
        Ok(())
    }
}

/// The job.
pub(crate) fn job() -> AnyJob {
    Job::new("urlcount", Lines, || Requests, Sum::<Bytes>::default)
        .combine(Sum::<Bytes>::default)
        .about("how often each address was asked for, by access logs")
        .into()
}
