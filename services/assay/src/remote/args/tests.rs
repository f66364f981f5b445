//! Flags of a gateway's clients go together, or are refused.

use clap::{Parser as _, error::ErrorKind};

use super::*;
use crate::args::{Args, Command};

fn refused(arguments: &str) -> ErrorKind {
    Args::try_parse_from(arguments.split(' ')).unwrap_err().kind()
}

#[test]
fn a_length_of_time_has_a_unit_or_is_of_seconds() {
    let ms = |text: &str| length(text).map(|length| length.as_millis());
    assert_eq!(["30", "30s", "0.5", "250ms", "2m"].map(ms), [30_000, 30_000, 500, 250, 120_000].map(Ok));
    for wrong in ["", "0", "0s", "-1", "nan", "1e300", "soon", "30 parsecs"] {
        assert!(length(wrong).is_err(), "{wrong}");
    }
    assert!(pace("0.01").is_err());
}

#[test]
fn a_tenant_fits_into_metadata() {
    assert!(tenant("team-a").is_ok());
    for wrong in ["", "é", "a\nb", &"a".repeat(65)] {
        assert!(tenant(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn scores_are_from_here_or_from_a_gateway() {
    let conflict = ErrorKind::ArgumentConflict;
    for flag in ["--tensor-parallel 2", "--threads 2", "--max-batch-tokens 10", "--revision main"] {
        assert_eq!(refused(&format!("assay score --endpoint a:1 {flag}")), conflict, "{flag}");
    }
    let missing = ErrorKind::MissingRequiredArgument;
    for flag in ["--tenant a", "--timeout 1s", "--retry-for 1s", "--ca f", "--domain d"] {
        assert_eq!(refused(&format!("assay score --model m {flag}")), missing, "{flag}");
    }
    assert_eq!(refused("assay score"), missing);
    assert_eq!(refused("assay score --endpoint a:1 --key f"), missing);
    assert_eq!(refused("assay status"), missing);
    let parsed = Args::try_parse_from("assay score --endpoint a:1,https://b:2 --max-length 9".split(' ')).unwrap();
    let Command::Score(score) = parsed.command else { panic!("it is score") };
    assert_eq!((score.remote.gateways().endpoint.len(), score.model), (2, None));
    assert_eq!(score.remote.retry_for, Duration::from_secs(60));
}

#[test]
fn a_watch_has_a_pace_of_its_own() {
    let watch = |arguments: &str| match Args::try_parse_from(arguments.split(' ')).unwrap().command {
        Command::Status(status) => status.watch,
        _ => panic!("it is status"),
    };
    assert_eq!(watch("assay status --endpoint a:1"), None);
    assert_eq!(watch("assay status --endpoint a:1 --watch"), Some(Duration::from_secs(2)));
    assert_eq!(watch("assay status --endpoint a:1 --watch 0.5 --json"), Some(Duration::from_millis(500)));
}
