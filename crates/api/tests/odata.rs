//! `$filter`: what az and the SDKs send, what is refused, and that nothing makes the parser panic.

#[path = "../../../tests/lib/soak.rs"]
mod soak;

use proptest::prelude::*;
use soak::number;
use strongroom_api::limits;
use strongroom_api::odata::{Expression, Filter, FilterError, Operator, Value};

fn parse(text: &str) -> Result<Filter, FilterError> {
    Filter::parse(text)
}

#[test]
fn what_az_sends() {
    let filter = parse("backupManagementType eq 'AzureIaasVM' and itemType eq 'VM'").unwrap();
    let by = filter.equalities(&["itemType", "backupManagementType"]).unwrap();
    assert!(by.passes("ItemType", "vm") && !by.passes("itemType", "File") && by.passes("other", "x"));

    let filter =
        parse("startTime eq '2026-11-01 12:00:00 AM' and endTime eq '2026-11-02 01:00:00 PM'").unwrap();
    let by = filter.equalities(&["startTime", "endTime"]).unwrap();
    assert_eq!(by.time("startTime").unwrap(), "2026-11-01T00:00:00Z".parse().ok());
    assert_eq!(by.time("ENDTIME").unwrap(), "2026-11-02T13:00:00Z".parse().ok());
    assert_eq!(by.time("nothing").unwrap(), None);

    assert_eq!(
        parse("expand eq 'extendedInfo'").unwrap().equalities(&["expand"]).unwrap().get("expand"),
        Some("extendedInfo")
    );
    let quoted = parse("policyName eq 'it''s; \"mine\" (1)'").unwrap();
    assert_eq!(quoted.equalities(&["policyName"]).unwrap().get("policyName"), Some("it's; \"mine\" (1)"));
    assert!(matches!(parse("atScope()").unwrap().expression, Expression::Call { .. }));
    assert!(parse("principalId eq 11111111-1111-1111-1111-111111111111").is_ok());
    assert!(parse("createdTime ge 2026-05-14T00:00:00.5Z and properties/x ne null").is_ok());
    assert!(parse("(status eq 'Failed' OR status eq 'InProgress') AND NOT (operation eq 'Backup')").is_ok());
    assert!(parse("substringof('x', name) or startswith(name,'y')").is_ok());
}

#[test]
fn sides_may_be_exchanged() {
    for (given, operator) in [("5 lt a", Operator::Gt), ("5 ge a", Operator::Le), ("'5' eq a", Operator::Eq)]
    {
        let Expression::Compare { name, operator: parsed, value } = parse(given).unwrap().expression else {
            panic!()
        };
        assert_eq!((name.as_str(), parsed, value.text()), ("a", operator, "5"));
    }
}

#[test]
fn and_binds_closer_than_or() {
    assert_eq!(parse("a eq 1 or b eq 2 and c eq 3").unwrap().to_string(), "(a eq 1 or (b eq 2 and c eq 3))");
    assert_eq!(parse("not a eq 1 and b eq 2").unwrap().to_string(), "(not (a eq 1) and b eq 2)");
}

#[test]
fn what_is_refused_and_why() {
    let refused = |text: &str| parse(text).unwrap_err();
    assert_eq!(refused("a eq 'x"), FilterError::OpenQuote);
    assert_eq!(refused("a eq"), FilterError::EndsEarly);
    assert_eq!(refused(""), FilterError::EndsEarly);
    assert_eq!(refused("a"), FilterError::EndsEarly);
    assert_eq!(refused("a eq and"), FilterError::Unexpected("and".into()));
    assert_eq!(refused("a is 'x'"), FilterError::Unexpected("is".into()));
    assert_eq!(refused("a eq 'x' b"), FilterError::Unexpected("b".into()));
    assert_eq!(refused("a eq 'x';drop"), FilterError::Unexpected(";".into()));
    assert_eq!(refused("'a' eq 'x'"), FilterError::NoName);
    assert_eq!(refused("1 eq 1"), FilterError::NoName);
    assert_eq!(refused("(a eq 1"), FilterError::EndsEarly);
    assert_eq!(refused(&"(".repeat(4000)), FilterError::TooDeep);
    assert_eq!(refused(&"not ".repeat(1000)), FilterError::TooDeep);
    assert_eq!(refused(&format!("a eq '{}'", "x".repeat(limits::FILTER_MAX_BYTES))), FilterError::TooLong);
    assert_eq!(
        refused(&vec!["a eq 1"; limits::FILTER_TERMS_MAX + 1].join(" and ")),
        FilterError::TooManyTerms
    );
    assert!(parse(&vec!["a eq 1"; limits::FILTER_TERMS_MAX].join(" and ")).is_ok());

    let equalities = |text: &str| parse(text).unwrap().equalities(&["a", "b"]).unwrap_err();
    assert_eq!(equalities("a eq 1 or b eq 2"), FilterError::OnlyEqualities);
    assert_eq!(equalities("a ne 1"), FilterError::OnlyEqualities);
    assert_eq!(equalities("not (a eq 1)"), FilterError::OnlyEqualities);
    assert_eq!(equalities("a eq 1 and A eq 2"), FilterError::Twice("A".into()));
    assert_eq!(equalities("c eq 1"), FilterError::UnknownName { name: "c".into(), known: "a, b".into() });
    let by = parse("a eq 'soon'").unwrap().equalities(&["a"]).unwrap();
    assert_eq!(by.time("a"), Err(FilterError::NotATime("soon".into())));
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        "\\PC{0,20}".prop_map(Value::Text),
        any::<i32>().prop_map(|n| Value::Number(n.to_string())),
        prop_oneof![Just("true"), Just("null"), Just("2026-01-01T00:00:00Z")]
            .prop_map(|w| Value::Word(w.into())),
    ]
}

fn expression() -> impl Strategy<Value = Expression> {
    let operator = prop_oneof![
        Just(Operator::Eq),
        Just(Operator::Ne),
        Just(Operator::Gt),
        Just(Operator::Ge),
        Just(Operator::Lt),
        Just(Operator::Le)
    ];
    let name = "x[a-zA-Z0-9_/.]{0,10}";
    let leaf = prop_oneof![
        (name, operator, value()).prop_map(|(name, operator, value)| Expression::Compare {
            name,
            operator,
            value
        }),
        (name, proptest::collection::vec(value(), 0..4))
            .prop_map(|(function, arguments)| Expression::Call { function, arguments }),
    ];
    leaf.prop_recursive(5, 24, 2, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(a, b)| Expression::And(Box::new(a), Box::new(b))),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| Expression::Or(Box::new(a), Box::new(b))),
            inner.prop_map(|a| Expression::Not(Box::new(a))),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(number(2000, 20_000)))]

    #[test]
    fn what_is_printed_parses_to_itself(expression in expression()) {
        let text = expression.to_string();
        prop_assert_eq!(Filter::parse(&text).map(|f| f.expression), Ok(expression), "{}", text);
    }

    #[test]
    fn nothing_panics(text in "\\PC{0,80}") {
        let _ = Filter::parse(&text);
        let _ = strongroom_api::odata::parse_time(&text);
    }

    #[test]
    fn nothing_made_of_its_own_words_panics(words in proptest::collection::vec(
        prop_oneof![Just("and"), Just("or"), Just("not"), Just("("), Just(")"), Just("a"), Just("eq"), Just("'x'"), Just("'"), Just(","), Just("-1e9")], 0..40)) {
        let text = words.join(" ");
        if let Ok(filter) = Filter::parse(&text) {
            prop_assert_eq!(Filter::parse(&filter.to_string()).unwrap().expression, filter.expression);
        }
    }
}
