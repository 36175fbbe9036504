//! dbench and bonnie++: written to measure, and they notice what goes wrong.

use super::*;

/// What dbench's package brings: the operations of a file server's client.
const LOAD: &str = "/usr/share/dbench/client.txt";
const CLIENTS: &str = "4";

fn serve_clients(passthrough: &str) {
    let mut arena = Arena::open(passthrough);
    // It reads the load file for a while first.
    let seconds = (program_seconds() + 3).to_string();
    let said = arena.without_a_cache_that_lasts(|| {
        let args = ["-x", "-D", ".", "-t", &seconds, "-c", LOAD, CLIENTS];
        run(program("dbench", &args, &arena.folder()))
    });
    // It says so of each answer that is not the one of the load file, and goes on.
    let complaints = ["expected", "ERROR", "failed"];
    let wrong: Vec<_> = said
        .lines()
        .filter(|line| complaints.iter().any(|complaint| line.contains(complaint)))
        // Several at once on one machine want the same semaphore, and start without it.
        .filter(|line| !line.contains("barrier semaphore"))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    let throughput = said.lines().find(|line| line.starts_with("Throughput"));
    println!("figures: dbench: {}", throughput.expect("a throughput"));
    arena.check();
}

#[test]
fn dbench_finds_nothing_with_passthrough() {
    serve_clients("true");
}

#[test]
fn dbench_finds_nothing_without_passthrough() {
    serve_clients("false");
}

fn bonnie(passthrough: &str) {
    let mut arena = Arena::open(passthrough);
    // It will not be root, unless told so. Its files have 1,024 times the number after `-n`, and bytes
    // are written one at a time: both take long.
    let mut command = program(
        "bonnie++",
        &["-q", "-d", ".", "-s", "64", "-r", "16"],
        &arena.folder(),
    );
    // Debian has it where only root looks.
    let path = std::env::var("PATH").unwrap();
    command.env("PATH", format!("{path}:/usr/sbin"));
    if rustix::process::geteuid().is_root() {
        command.args(["-u", "root"]);
    }
    match is_long() {
        true => command.args(["-n", "2:65536:0:8"]),
        false => command.args(["-f", "-n", "0"]),
    };
    let said = arena.without_a_cache_that_lasts(|| run(command));
    let line = said.lines().find(|line| line.starts_with("1."));
    println!("figures: bonnie++: {}", line.expect("a line of results"));
    assert_eq!(
        contents(&arena.folder()).len(),
        1,
        "it leaves nothing behind"
    );
    arena.check();
}

#[test]
fn bonnie_finds_nothing_with_passthrough() {
    bonnie("true");
}

#[test]
fn bonnie_finds_nothing_without_passthrough() {
    bonnie("false");
}
