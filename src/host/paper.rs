//! Completions and man pages, made from the command line's definition.

use std::{io, path::Path};

use clap::{Command, CommandFactory};

use crate::cli::{Cli, Shell};

/// Writes completions for a shell.
pub fn completions(shell: Shell, out: &mut dyn io::Write) {
    let shell = match shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    clap_complete::generate(shell, &mut Cli::command(), "rcluster", out);
}

/// Writes `rcluster.1`.
///
/// # Errors
/// The errno of `write(2)`.
pub fn man_page(out: &mut dyn io::Write) -> io::Result<()> {
    page(Cli::command(), out)
}

/// Writes `rcluster.1`, and `rcluster-COMMAND.1` for each command. Returns their number.
///
/// # Errors
/// The errno of `open(2)` or `write(2)`.
pub fn man_pages(folder: &Path) -> io::Result<usize> {
    std::fs::create_dir_all(folder)?;
    let mut main = Cli::command();
    main.build();
    let mut count = 1;
    page(
        Cli::command(),
        &mut std::fs::File::create(folder.join("rcluster.1"))?,
    )?;
    for command in main.get_subcommands() {
        if command.is_hide_set() || command.get_name() == "help" {
            continue;
        }
        let name = format!("rcluster-{}", command.get_name());
        let file = std::fs::File::create(folder.join(format!("{name}.1")));
        // clap keeps the name for the life of the command.
        page(command.clone().name(name), &mut file?)?;
        count += 1;
    }
    Ok(count)
}

fn page(command: Command, out: &mut dyn io::Write) -> io::Result<()> {
    clap_mangen::Man::new(command).render(out)
}
