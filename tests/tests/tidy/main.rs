//! The rules of the repository, over every file in it.

use std::fs;
use std::path::Path;
use std::process::Command;

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

/// A machine of which the compiler brings `libclang-cpp`, and nothing that binds to C, has none.
#[test]
fn a_build_takes_no_other_library_for_libclang() {
    let dir = tempfile::tempdir().expect("a directory");
    let found = || {
        let script = "eval \"$(sed -n '/^_cfgsvc_find_libclang()/,/^}/p' ../deploy/build-env)\"
            _cfgsvc_find_libclang && echo \"$_cfgsvc_libclang\"";
        let mut bash = Command::new("bash");
        bash.args(["-c", script]).env("LIBCLANG_PATH", dir.path());
        bash.current_dir(env!("CARGO_MANIFEST_DIR"));
        let output = bash.output().expect("bash runs");
        assert!(output.stderr.is_empty(), "{output:?}");
        Path::new(String::from_utf8_lossy(&output.stdout).trim()) == dir.path()
    };
    let has = |name| fs::write(dir.path().join(name), "").expect("writable");
    has("libclang-cpp.so.14");
    assert!(!found(), "it is another library");
    has("libclang-14.so.1");
    assert!(found());
}
