//! What every door does with a command before it goes on: sizes that its types do not bound.

use switchboard_protocol::{Command, Data, Limits, Text};

use crate::refusal::Refusal;

/// Refuses a command whose content is over the limits, or is missing where the types cannot say so.
pub(crate) fn check(command: &Command, limits: &Limits) -> Result<(), Refusal> {
    match command {
        Command::Send(c) => check_content(c.text.as_ref(), c.data.as_ref(), limits),
        Command::Edit(c) => check_content(c.text.as_ref(), c.data.as_ref(), limits),
        Command::Watch(c) => check_count("users", c.users.len(), limits.watch),
        Command::Create(c) => check_count("members", c.members.len(), limits.create_members),
        _ => Ok(()),
    }
}

fn check_content(text: Option<&Text>, data: Option<&Data>, limits: &Limits) -> Result<(), Refusal> {
    if data.is_none() && text.is_none_or(|text| text.as_str().is_empty()) {
        return Err(Refusal::bad_field(
            "text",
            "text: a message has a `text` that is not empty, or `data`, or both",
        ));
    }
    let most = limits.text as usize;
    if text.is_some_and(|text| text.as_str().len() > most) {
        return Err(Refusal::too_large(
            "text",
            format!("text: at most {most} bytes; send the rest as another message"),
        ));
    }
    if data.is_some_and(|data| serde_json::to_string(data).is_ok_and(|json| json.len() > most)) {
        return Err(Refusal::too_large(
            "data",
            format!("data: at most {most} bytes of JSON; store the rest elsewhere"),
        ));
    }
    Ok(())
}

fn check_count(field: &'static str, count: usize, most: u32) -> Result<(), Refusal> {
    if count > most as usize {
        return Err(Refusal::too_large(field, format!("{field}: at most {most} at a time")));
    }
    Ok(())
}
