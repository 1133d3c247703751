//! The built-in jobs. They use what the library offers to everybody, and nothing else.

mod grep;
mod invertedindex;
mod linkgraph;
mod pipe;
mod sort;
mod streaming;
mod termvector;
mod urlcount;
mod wordcount;

use mapreduce::AnyJob;

/// All of them, in the order in which they are listed.
pub(crate) fn all() -> Vec<AnyJob> {
    vec![
        wordcount::job(),
        grep::job(),
        urlcount::job(),
        linkgraph::job(),
        termvector::job(),
        invertedindex::job(),
        sort::job(),
        streaming::job(),
    ]
}
