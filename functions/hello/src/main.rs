//! `{"name":"x"}` in, `{"message":"Hello x"}` out.

fn main() {
    fdk::serve(|request| {
        let name = fdk::string_member(request.body(), "name").unwrap_or_else(|| "world".to_owned());
        let mut text = String::from("{\"message\":");
        fdk::push_string(&mut text, &format!("Hello {name}"));
        text.push_str("}\n");
        fdk::Response::json(text)
    });
}
