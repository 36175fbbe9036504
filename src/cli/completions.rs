//! What packages ship beside the program: completions for shells, and the man page.

use std::io::Write;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Failure, Opts};

/// The arguments of `completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// For which shell.
    pub shell: Shell,
}

/// Runs `voicebeatfs completions`.
pub fn run(args: &CompletionsArgs) -> Result<(), Failure> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Opts::command(), "voicebeatfs", &mut text);
    print(&text)
}

/// Runs `voicebeatfs man`.
pub fn run_man() -> Result<(), Failure> {
    print(&page().map_err(|error| Failure::Failed(error.to_string()))?)
}

/// Returns the page, with a section for each command.
fn page() -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let mut command = Opts::command();
    command.build();
    let man = clap_mangen::Man::new(command.clone());
    man.render(&mut text)?;
    for subcommand in command.get_subcommands().filter(|c| !c.is_hide_set()) {
        let man = clap_mangen::Man::new(subcommand.clone());
        let heading = format!(".SH \"{}\"\n", subcommand.get_name().to_uppercase());
        text.extend(heading.bytes());
        man.render_description_section(&mut text)?;
        man.render_options_section(&mut text)?;
    }
    Ok(text)
}

fn print(text: &[u8]) -> Result<(), Failure> {
    match std::io::stdout().write_all(text) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::Failed(format!("cannot write: {error}")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn the_page_and_the_completions_know_every_command() {
        let page = String::from_utf8(page().unwrap()).unwrap();
        let commands = Opts::command();
        for command in commands.get_subcommands().map(|command| command.get_name()) {
            assert!(
                page.contains(&format!(".SH \"{}\"", command.to_uppercase())),
                "{command}"
            );
            for shell in Shell::value_variants() {
                let mut text = Vec::new();
                clap_complete::generate(*shell, &mut Opts::command(), "voicebeatfs", &mut text);
                let text = String::from_utf8(text).unwrap();
                assert!(
                    text.contains(command),
                    "{command} is not in that for {shell}"
                );
            }
        }
        assert!(page.contains("\\-\\-env\\-file"), "{page}");
    }
}
