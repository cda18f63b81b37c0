//! What keys mean. Pure: a key and a mode give a mode, and perhaps an order.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a keyboard has many keys without a meaning"
)]

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use rcluster_core::supervisor::{Policy, Slot};

/// Something to be done to the master.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Reload,
    Rollback,
    Scale(String),
    Restart(Slot),
}

impl Order {
    /// The question before it.
    pub(super) fn question(&self) -> String {
        match self {
            Self::Reload => "Reload: replace every worker with new code?".to_owned(),
            Self::Rollback => "Go back to the release before the last reload?".to_owned(),
            Self::Scale(workers) => format!("Scale to {workers} workers?"),
            Self::Restart(slot) => format!("Restart the worker of slot {slot}?"),
        }
    }
}

/// What the keyboard is for at the moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Mode {
    /// Looking.
    #[default]
    Look,
    /// A number of workers is typed.
    Typing(String),
    /// A question is open.
    Asking(Order),
}

/// What follows from a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Then {
    Go(Mode),
    Move(i64),
    Do(Order),
    Quit,
    Nothing,
}

/// What a key means. `selected` is the slot under the cursor.
pub(super) fn key(mode: &Mode, key: KeyEvent, selected: Option<Slot>) -> Then {
    if key.kind == KeyEventKind::Release {
        return Then::Nothing;
    }
    if key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL) {
        return Then::Quit;
    }
    match mode {
        Mode::Look => look(key.code, selected),
        Mode::Typing(text) => typing(key.code, text),
        Mode::Asking(order) => match key.code {
            KeyCode::Char('y' | 'Y') => Then::Do(order.clone()),
            KeyCode::Char('n' | 'N' | 'q') | KeyCode::Esc => Then::Go(Mode::Look),
            // Nothing else answers: a question is not to be answered by accident.
            _ => Then::Nothing,
        },
    }
}

fn look(code: KeyCode, selected: Option<Slot>) -> Then {
    let ask = |order| Then::Go(Mode::Asking(order));
    match code {
        KeyCode::Char('q') | KeyCode::Esc => Then::Quit,
        KeyCode::Char('r') => ask(Order::Reload),
        KeyCode::Char('b') => ask(Order::Rollback),
        KeyCode::Char('s') => Then::Go(Mode::Typing(String::new())),
        KeyCode::Char('x') => selected.map_or(Then::Nothing, |slot| ask(Order::Restart(slot))),
        KeyCode::Up | KeyCode::Char('k') => Then::Move(-1),
        KeyCode::Down | KeyCode::Char('j') => Then::Move(1),
        _ => Then::Nothing,
    }
}

fn typing(code: KeyCode, text: &str) -> Then {
    let go = |text: String| Then::Go(Mode::Typing(text));
    match code {
        KeyCode::Esc => Then::Go(Mode::Look),
        KeyCode::Backspace => {
            let mut text = text.to_owned();
            text.pop();
            go(text)
        }
        KeyCode::Char(digit) if digit.is_ascii_digit() && text.len() < 4 => {
            go(format!("{text}{digit}"))
        }
        KeyCode::Enter => match text.parse() {
            Ok(1..=Policy::MAX_WORKERS) => Then::Go(Mode::Asking(Order::Scale(text.to_owned()))),
            _ => Then::Nothing,
        },
        _ => Then::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn press(mode: &Mode, code: KeyCode) -> Then {
        key(mode, code.into(), Some(Slot(2)))
    }

    #[test]
    fn nothing_is_done_without_a_yes() {
        let keys: Vec<KeyCode> = (' '..='~')
            .map(KeyCode::Char)
            .chain([KeyCode::Enter, KeyCode::Esc, KeyCode::Up])
            .collect();
        for code in &keys {
            assert!(!matches!(press(&Mode::Look, *code), Then::Do(_)));
            assert!(!matches!(
                press(&Mode::Typing("8".into()), *code),
                Then::Do(_)
            ));
            let asked = press(&Mode::Asking(Order::Reload), *code);
            let yes = matches!(code, KeyCode::Char('y' | 'Y'));
            assert_eq!(matches!(asked, Then::Do(_)), yes, "{code:?}");
        }
    }

    #[test]
    fn a_number_is_typed_then_asked_for() {
        let typing = |text: &str| Mode::Typing(text.to_owned());
        assert_eq!(press(&Mode::Look, KeyCode::Char('s')), Then::Go(typing("")));
        assert_eq!(
            press(&typing("1"), KeyCode::Char('2')),
            Then::Go(typing("12"))
        );
        assert_eq!(
            press(&typing("12"), KeyCode::Backspace),
            Then::Go(typing("1"))
        );
        assert_eq!(press(&typing(""), KeyCode::Enter), Then::Nothing);
        assert_eq!(press(&typing("0"), KeyCode::Enter), Then::Nothing);
        let asking = Mode::Asking(Order::Scale("12".into()));
        assert_eq!(press(&typing("12"), KeyCode::Enter), Then::Go(asking));
    }
}
