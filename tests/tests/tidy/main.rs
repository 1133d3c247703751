//! The rules of the repository, over every file in it.

use std::path::Path;

#[test]
fn every_file_keeps_the_rules() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("this package is inside the workspace");
    let files = cfgsvc_tests::tidy::tracked_files(root).expect("list the files");
    assert!(files.len() > 20, "only {} files are tracked", files.len());
    let mut complaints = Vec::new();
    for file in &files {
        complaints.extend(cfgsvc_tests::tidy::check_file(root, file).expect("read the file"));
    }
    assert!(
        complaints.is_empty(),
        "{} complaints:\n{}",
        complaints.len(),
        complaints.join("\n")
    );
}
