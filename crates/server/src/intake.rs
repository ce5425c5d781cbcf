//! What every door does with a command before it goes on: sizes that its types do not bound.

use switchboard_protocol::{Command, Data, Limits, Text, Title, is_blank};

use switchboard_store::refusal::Refusal;

/// Refuses a command whose content is over the limits, or is missing where the types cannot say so.
pub(crate) fn check(command: &Command, limits: &Limits) -> Result<(), Refusal> {
    match command {
        Command::Send(c) => check_content(c.text.as_ref(), c.data.as_ref(), limits),
        Command::Edit(c) => check_content(c.text.as_ref(), c.data.as_ref(), limits),
        Command::Watch(c) => check_count("users", c.users.len(), limits.watch),
        Command::Create(c) => {
            check_title(c.title.as_ref())?;
            check_count("members", c.members.len(), limits.create_members)
        }
        Command::Rename(c) => check_title(Some(&c.title)),
        Command::React(c) if is_blank(c.emoji.as_str()) => {
            Err(Refusal::bad_field("emoji", "emoji: a reaction shows something"))
        }
        // What its types bound. A new command is named in one of these lines.
        Command::Hello(_)
        | Command::Delete(_)
        | Command::React(_)
        | Command::Sync(_)
        | Command::History(_)
        | Command::Conversations(_)
        | Command::Read(_)
        | Command::Received(_)
        | Command::Typing(_)
        | Command::Join(_)
        | Command::Leave(_)
        | Command::Invite(_)
        | Command::Remove(_)
        | Command::SetRole(_)
        | Command::Members(_)
        | Command::Ping(_) => Ok(()),
    }
}

fn check_content(text: Option<&Text>, data: Option<&Data>, limits: &Limits) -> Result<(), Refusal> {
    if data.is_none() && text.is_none_or(|text| text.as_str().is_empty()) {
        return Err(Refusal::bad_field(
            "text",
            "text: a message has a `text` that is not empty, or `data`, or both",
        ));
    }
    if text.is_some_and(|text| !text.as_str().is_empty() && is_blank(text.as_str())) {
        return Err(Refusal::bad_field("text", "text: it has white space and invisible characters only"));
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

fn check_title(title: Option<&Title>) -> Result<(), Refusal> {
    if title.is_some_and(|title| is_blank(title.as_str())) {
        return Err(Refusal::bad_field("title", "title: it has white space and invisible characters only"));
    }
    Ok(())
}

fn check_count(field: &'static str, count: usize, most: u32) -> Result<(), Refusal> {
    if count > most as usize {
        return Err(Refusal::too_large(field, format!("{field}: at most {most} at a time")));
    }
    Ok(())
}
