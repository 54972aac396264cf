use super::*;

fn parse(line: &str) -> Result<Row, String> {
    parse_with(line, &RowOptions::default())
}

fn parse_with(line: &str, options: &RowOptions) -> Result<Row, String> {
    let value = Value::from_json(line.as_bytes()).map_err(|error| error.to_string())?;
    parse_row(&value, options, None).map_err(|error| error.to_string())
}

fn chat(line: &str) -> Conversation {
    match parse(line) {
        Ok(Row::Chat(conversation)) => conversation,
        other => panic!("{line}: {other:?}"),
    }
}

fn said(conversation: &Conversation) -> Vec<(Role, &str)> {
    let messages = conversation.messages.iter();
    messages
        .map(|message| (message.role, message.content.as_str()))
        .collect()
}

#[test]
fn parts_and_the_literal_token_mean_the_same() {
    let parts = chat(
        r#"{"id": 7, "messages": [
            {"role": "user", "content": [{"type": "image", "text": null}, {"type": "text", "text": "What?"}]},
            {"role": "assistant", "content": "It."}], "images": ["a.png"]}"#,
    );
    let literal = chat(
        r#"{"messages": [{"role": "user", "content": "<image>What?"},
            {"role": "assistant", "content": [{"type": "text", "text": "It."}]}], "images": ["a.png"]}"#,
    );
    assert_eq!(said(&parts), said(&literal));
    assert_eq!(parts.images, literal.images);
    assert_eq!(parts.messages[0].text(), "What?");
    assert_eq!(parts.tags, [None]);
}

#[test]
fn conversations_are_read_under_their_usual_names() {
    let expected = [(Role::System, "s"), (Role::User, "q"), (Role::Assistant, "a")];
    let openai = chat(
        r#"{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"},
            {"role": "assistant", "content": "a"}]}"#,
    );
    let sharegpt = chat(
        r#"{"conversations": [{"from": "system", "value": "s"}, {"from": "human", "value": "q"},
            {"from": "gpt", "value": "a"}]}"#,
    );
    let as_json = chat(
        r#"{"messages": "[{\"role\": \"system\", \"content\": \"s\"}, {\"role\": \"user\", \"content\": \"q\"}, {\"role\": \"model\", \"content\": \"a\"}]"}"#,
    );
    for conversation in [openai, sharegpt, as_json] {
        assert_eq!(said(&conversation), expected);
    }
    let roles = chat(
        r#"{"messages": [{"role": "developer", "content": "d"}, {"role": "ipython", "content": "t"},
            {"role": "tool", "content": "t"}, {"role": "function", "content": "t"}]}"#,
    );
    assert_eq!(
        roles
            .messages
            .iter()
            .map(|message| message.role)
            .collect::<Vec<_>>(),
        [Role::Developer, Role::Tool, Role::Tool, Role::Tool]
    );
}

#[test]
fn a_system_turn_may_stand_beside_the_others() {
    let turns = |first: &str| {
        format!(
            r#"[{first}{{"role": "user", "content": "<image>q"}}, {{"role": "assistant", "content": "a"}}]"#
        )
    };
    let row = |system: &str, first: &str| {
        format!(
            r#"{{"system": {system}, "messages": {}, "images": ["a.png", "b.png"]}}"#,
            turns(first)
        )
    };
    let beside = chat(&row(r#""s <image>""#, ""));
    let expected = [
        (Role::System, "s <image>"),
        (Role::User, "<image>q"),
        (Role::Assistant, "a"),
    ];
    assert_eq!(said(&beside), expected);
    assert_eq!(beside.images.len(), 2);
    assert_eq!(beside.tags, [None]);
    // Said twice it counts once.
    let first = r#"{"role": "system", "content": "s <image>"}, "#;
    assert_eq!(said(&chat(&row(r#""s <image>""#, first))), expected);
    assert_eq!(said(&chat(&row("null", first))), expected);
    let message = parse(&row(r#""t""#, first)).unwrap_err();
    assert!(
        message.contains("\"system\" and a system turn of another text"),
        "{message}"
    );
    let message = parse(&row("3", "")).unwrap_err();
    assert!(message.contains("system: expected text"), "{message}");

    let options = RowOptions {
        fields: Fields {
            system: Some("about".into()),
            ..Fields::default()
        },
        ..RowOptions::default()
    };
    let line = format!(
        r#"{{"about": "s", "system": 3, "messages": {}, "images": ["a.png"]}}"#,
        turns("")
    );
    let Ok(Row::Chat(row)) = parse_with(&line, &options) else {
        panic!("a conversation")
    };
    assert_eq!(row.messages[0].content, "s");
}

#[test]
fn any_names_and_roles_are_read_by_mapping() {
    let options = RowOptions {
        fields: Fields {
            messages: Some("json.turns".into()),
            role: Some("who".into()),
            content: Some("what".into()),
            train: Some("learn".into()),
            images: Some("pictures[0]".into()),
            ..Fields::default()
        },
        roles: vec![("doctor".into(), Role::Assistant), ("user".into(), Role::System)],
        image_token: Some("<|reserved_special_token_0|>".into()),
        ..RowOptions::default()
    };
    let line = r#"{"json": {"turns": [{"who": "user", "what": "<|reserved_special_token_0|>x"},
        {"who": "doctor", "what": "y", "learn": false}]}, "pictures": [["p.png"]], "messages": 3}"#;
    let Row::Chat(row) = parse_with(line, &options).unwrap() else {
        panic!("a conversation")
    };
    assert_eq!(said(&row), [(Role::System, "<image>x"), (Role::Assistant, "y")]);
    assert_eq!(row.messages[1].train, Some(false));
    assert_eq!(row.images, [ImageRef::Path("p.png".into())]);

    let foreign = line.replace("<|reserved_special_token_0|>x", "<image>x");
    let message = parse_with(&foreign, &options).unwrap_err();
    assert!(
        message.contains("the image_token of these rows is `<|reserved"),
        "{message}"
    );
}

#[test]
fn turns_keep_what_templates_read_and_say_whether_they_are_trained() {
    let row = chat(
        r#"{"tools": [{"type": "function"}], "messages": [
            {"role": "assistant", "content": null, "tool_calls": [{"name": "f"}], "weight": 0},
            {"role": "tool", "content": "1", "tool_call_id": "x", "name": "f"},
            {"role": "assistant", "content": "a", "reasoning_content": "r", "train": true}]}"#,
    );
    let names = |turn: usize| {
        let extra = row.messages[turn].extra.iter();
        extra.map(|(name, _)| name.as_str()).collect::<Vec<_>>()
    };
    assert_eq!(
        (names(0), names(1)),
        (vec!["tool_calls"], vec!["tool_call_id", "name"])
    );
    assert_eq!(names(2), ["reasoning_content"]);
    let train: Vec<_> = row.messages.iter().map(|message| message.train).collect();
    assert_eq!(train, [Some(false), None, Some(true)]);
    assert!(row.tools.is_some());
}

#[test]
fn every_kind_of_row_is_recognised() {
    let user_and_answer = |line: &str, user: &str, answer: &str| {
        assert_eq!(said(&chat(line)), [(Role::User, user), (Role::Assistant, answer)]);
    };
    user_and_answer(r#"{"instruction": "i", "input": "", "output": "o"}"#, "i", "o");
    user_and_answer(
        r#"{"instruction": "i", "context": "c", "response": "o"}"#,
        "i\n\nc",
        "o",
    );
    user_and_answer(r#"{"question": "q", "answer": "a"}"#, "q", "a");
    user_and_answer(
        r#"{"question": "<image>\nq", "answers": ["a", "b"], "image": "p.png"}"#,
        "<image>\nq",
        "a",
    );
    let Ok(Row::Pair(pair)) = parse(r#"{"prompt": "p", "completion": "c"}"#) else {
        panic!("a prompt with its completion")
    };
    assert_eq!((pair.prompt.as_str(), pair.completion.as_str()), ("p", "c"));
    let turns = chat(
        r#"{"prompt": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "x"}],
            "completion": [{"role": "assistant", "content": "c"}]}"#,
    );
    let train: Vec<_> = turns.messages.iter().map(|message| message.train).collect();
    assert_eq!(train, [Some(false), Some(false), Some(true)]);
    assert!(matches!(parse(r#"{"text": "t"}"#), Ok(Row::Text(document)) if document.text == "t"));
    assert!(matches!(parse(r#"{"input_ids": [3, 4]}"#), Ok(Row::Tokens(ids)) if ids == [3, 4]));
}

#[test]
fn multimeditron_rows_hold_their_images() {
    let options = RowOptions {
        image_token: Some("<|a|>".into()),
        ..RowOptions::default()
    };
    let png = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, b"png");
    let line = format!(
        r#"{{"conversations": [{{"role": "user", "content": "<|a|> and <|a|>?"}}, {{"role": "assistant", "content": "b"}}],
            "modalities": [{{"type": "image", "value": {{"bytes": "{png}", "path": "x.png"}}}},
                           {{"type": "image", "value": "y.png"}}]}}"#
    );
    let Ok(Row::Chat(row)) = parse_with(&line, &options) else {
        panic!("a conversation")
    };
    assert_eq!(
        row.images,
        [ImageRef::Bytes(b"png".to_vec()), ImageRef::Path("y.png".into())]
    );
    assert_eq!(row.messages[0].content, "<image> and <image>?");
    let text = r#"{"text": "see <|a|>", "modalities": [{"type": "image", "value": "y.png"}]}"#;
    assert!(matches!(parse_with(text, &options), Ok(Row::Text(document)) if document.images.len() == 1));
    // S1.30: text alone with an empty list is legal; both forms, or another modality, are not.
    assert!(parse(r#"{"text": "t", "modalities": []}"#).is_ok());
    let both = r#"{"text": "t", "conversations": [{"role": "user", "content": ""}], "modalities": []}"#;
    assert!(parse(both).unwrap_err().contains("the row may be chat or text"));
    let volume = r#"{"text": "<image>", "modalities": [{"type": "image_3d", "value": "y.npy"}]}"#;
    assert!(
        parse(volume)
            .unwrap_err()
            .contains("modalities[0]: a modality of the type")
    );
}

#[test]
fn images_are_paths_or_in_the_row() {
    let images = |list: &str| {
        let line = format!(r#"{{"text": "<image>", "image": {list}}}"#);
        parse(&line).map(Row::into_images)
    };
    let path = |path: &str| Ok(vec![ImageRef::Path(path.into())]);
    let bytes = Ok(vec![ImageRef::Bytes(b"ab".to_vec())]);
    assert_eq!(images(r#""a.png""#), path("a.png"));
    assert_eq!(images(r#"["file:///a.png"]"#), path("/a.png"));
    assert_eq!(images(r#"{"path": "a.png", "bytes": null}"#), path("a.png"));
    assert_eq!(images(r#"{"path": "a.png", "bytes": "YWI="}"#), bytes);
    assert_eq!(images(r#""data:image/png;base64,YWI""#), bytes);
    for (list, expected) in [
        (r#""https://x/a.png""#, "image: an address on the network"),
        (r#""data:image/png,ab""#, "a data URL that is not base64"),
        (r#"{"bytes": "%%"}"#, "image.bytes: not base64"),
        (r#"{"path": null}"#, "neither bytes nor a path"),
        (r#"{"file": "x"}"#, "unknown key \"file\""),
        ("3", "image: expected a path, bytes or base64, found a number"),
        (r#""""#, "an empty path"),
    ] {
        let message = images(list).unwrap_err();
        assert!(message.contains(expected), "{list}: {message}");
    }
    // A part that holds its image takes none from the list.
    let mixed = chat(
        r#"{"images": ["b.png"], "messages": [{"role": "user", "content": [
            {"type": "image", "path": "a.png"}, {"type": "image"}, {"type": "image_url", "image_url": {"url": "c.png"}},
            {"type": "text", "text": "x"}]}]}"#,
    );
    let paths = ["a.png", "b.png", "c.png"].map(|path| ImageRef::Path(path.into()));
    assert_eq!(mixed.images, paths);
}

#[test]
fn what_is_wrong_with_a_row_is_said() {
    for (line, expected) in [
        ("{", "column 1: EOF while parsing an object"),
        ("[]", "the row: expected an object, found a list"),
        (
            r#"{"message": []}"#,
            "the row is of no known kind; the keys of the row are: message",
        ),
        (
            r#"{"text": "", "instruction": "", "output": ""}"#,
            "the row may be instruction or text; the keys of the row are: text, instruction, output",
        ),
        (
            r#"{"messages": [], "conversations": []}"#,
            "both \"messages\" and \"conversations\", which mean the same",
        ),
        (r#"{"messages": []}"#, "messages is empty"),
        (
            r#"{"messages": 3}"#,
            "messages: expected a list of turns, found a number",
        ),
        (
            r#"{"messages": [{"role": "gbt", "content": ""}]}"#,
            "messages[0].role: unknown role \"gbt\"",
        ),
        (
            r#"{"messages": [{"role": "user", "content": null}]}"#,
            "messages[0].content: expected a string or a list of parts, found null",
        ),
        (
            r#"{"messages": [{"role": "user"}]}"#,
            "it has no \"content\"; its keys are: role",
        ),
        (r#"{"messages": [{"content": ""}]}"#, "it has no \"role\""),
        (
            r#"{"messages": [{"role": "user", "content": "", "mood": "good"}]}"#,
            "messages[0]: unknown key \"mood\"",
        ),
        (
            r#"{"messages": [{"role": "user", "content": "", "train": 0.5}]}"#,
            "messages[0].train: expected true, false, 0 or 1, found a number",
        ),
        (
            r#"{"messages": [{"role": "user", "content": [{"type": "video"}]}]}"#,
            "content[0]: a part of the type \"video\"",
        ),
        (
            r#"{"messages": [{"role": "user", "content": [{"type": "text"}]}]}"#,
            "it has no \"text\"",
        ),
        (
            r#"{"messages": [{"role": "user", "content": [{"type": "image", "size": 3}]}]}"#,
            "unknown key \"size\"",
        ),
        (
            r#"{"messages": [{"role": "user", "content": "<image>"}]}"#,
            "1 image placeholders in the text, but 0",
        ),
        (
            r#"{"messages": [{"role": "user", "content": ""}], "images": ["a"]}"#,
            "0 image placeholders in the text",
        ),
        (
            r#"{"messages": [{"role": "assistant", "content": ""}], "tags": []}"#,
            "0 tags for 1 assistant turns",
        ),
        (
            r#"{"prompt": 3, "completion": "c"}"#,
            "prompt: expected text, found a number",
        ),
        (
            r#"{"question": "q", "answers": []}"#,
            "answers: there is no answer",
        ),
        (r#"{"input_ids": [1, -1]}"#, "input_ids[1]: expected a token id"),
    ] {
        let message = parse(line).unwrap_err();
        assert!(message.contains(expected), "{line}: {message}");
        assert!(!message.contains("at line"), "{message}");
    }
    let options = RowOptions {
        kind: RowKind::Instruction,
        ..RowOptions::default()
    };
    let message = parse_with(r#"{"instruction": "i"}"#, &options).unwrap_err();
    assert!(
        message.contains("the row has no \"output\"; its keys are: instruction"),
        "{message}"
    );
}
