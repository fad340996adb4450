//! The tokens whose form is published: prefix, alphabet, length.
//!
//! Forms are facts from the documentation of those who issue the tokens, and from what the secret
//! scanning of code hosts lists as theirs; wording and table are our own. A row is kept as follows: it
//! comes with a case in `tests.rs` that is made up and put together at run time, a form that is no
//! longer issued stays (old keys still open doors), and a row that was found to hit something else in a
//! tree of source code is narrowed or goes. Lengths that makers call subject to change are minimums.

use super::shape::Part::{Assign, Is, PemBody, Run};
use super::shape::{Part, Row, Set};

const DIGIT: Set = Set::DIGIT;
const HEX: Set = Set::HEX;
const ALNUM: Set = Set::ALNUM;
const WORD: Set = Set::WORD;
const BASE64: Set = Set::BASE64;
const UPPER_DIGIT: Set = Set::UPPER.or(Set::DIGIT);
const LOWER_DIGIT: Set = Set::LOWER.or(Set::DIGIT);
/// Where the form says only a minimum.
const MANY: usize = 2048;

/// A token that begins with its word.
const fn token(rule: &'static str, word: &'static str, parts: &'static [Part]) -> Row {
    Row { rule, before: None, word, any_case: false, parts }
}

/// A token whose word stands behind a run of characters.
const fn inside(
    rule: &'static str,
    before: (Set, usize, usize),
    word: &'static str,
    parts: &'static [Part],
) -> Row {
    Row { rule, before: Some(before), word, any_case: false, parts }
}

/// A value without a prefix, known by its setting and its form.
const fn setting(rule: &'static str, word: &'static str, parts: &'static [Part]) -> Row {
    Row { rule, before: None, word, any_case: true, parts }
}

/// Every form.
pub(super) static ROWS: &[Row] = &[
    // Keys.
    token("private-key-pem", "-----BEGIN ", &[PemBody]),
    token("putty-key", "PuTTY-User-Key-File-", &[Run(DIGIT, 1, 1), Is(": "), Run(WORD, 7, 40)]),
    token("age-key", "AGE-SECRET-KEY-1", &[Run(Set::BECH32, 58, 58)]),
    token("age-key", "AGE-SECRET-KEY-PQ-1", &[Run(Set::BECH32, 58, 80)]),
    setting("wireguard-key", "privatekey", &[Assign, Run(BASE64, 43, 43), Is("=")]),
    setting("wireguard-key", "presharedkey", &[Assign, Run(BASE64, 43, 43), Is("=")]),
    // Clouds.
    token("aws-access-key", "AKIA", &[Run(Set::BASE32, 16, 16)]),
    token("aws-access-key", "ASIA", &[Run(Set::BASE32, 16, 16)]),
    setting("aws-secret-key", "secret_access_key", &[Assign, Run(BASE64, 40, 40)]),
    setting("aws-secret-key", "secretaccesskey", &[Assign, Run(BASE64, 40, 40)]),
    setting("aws-secret-key", "aws_secret_key", &[Assign, Run(BASE64, 40, 40)]),
    token("google-api-key", "AIza", &[Run(WORD, 35, 35)]),
    token("google-client-secret", "GOCSPX-", &[Run(WORD, 28, 28)]),
    token("google-refresh-token", "1//0", &[Run(WORD, 60, 200)]),
    token("azure-storage-key", "AccountKey=", &[Run(BASE64, 86, 86), Is("==")]),
    token("azure-shared-key", "SharedAccessKey=", &[Run(BASE64, 43, 43), Is("=")]),
    inside("azure-client-secret", (WORD, 4, 4), "Q~", &[Run(WORD.or(Set::of(b"~.")), 31, 34)]),
    token("alibaba-access-key", "LTAI", &[Run(ALNUM, 20, 20)]),
    token("digitalocean-token", "dop_v1_", &[Run(HEX, 64, 64)]),
    token("digitalocean-token", "doo_v1_", &[Run(HEX, 64, 64)]),
    token("digitalocean-token", "dor_v1_", &[Run(HEX, 64, 64)]),
    token("cloudflare-origin-key", "v1.0-", &[Run(HEX, 24, 24), Is("-"), Run(HEX, 146, 146)]),
    setting("cloudflare-token", "cloudflare_api_token", &[Assign, Run(WORD, 40, 60)]),
    setting("cloudflare-token", "cloudflare_api_key", &[Assign, Run(WORD, 37, 60)]),
    setting("cloudflare-token", "cf_api_token", &[Assign, Run(WORD, 40, 60)]),
    token("heroku-key", "HRKU-AA", &[Run(WORD, 58, 58)]),
    setting("heroku-key", "heroku_api_key", &[Assign, Run(HEX.or(Set::of(b"-")), 36, 36)]),
    token("flyio-token", "fm2_", &[Run(BASE64, 100, MANY)]),
    token("tailscale-key", "tskey-", &[Run(LOWER_DIGIT, 3, 12), Is("-"), Run(WORD, 20, 100)]),
    token("databricks-token", "dapi", &[Run(HEX, 32, 32)]),
    token("planetscale-token", "pscale_tkn_", &[Run(WORD.or(Set::of(b"=.")), 32, 64)]),
    token("planetscale-password", "pscale_pw_", &[Run(WORD.or(Set::of(b"=.")), 32, 64)]),
    token("supabase-token", "sbp_", &[Run(HEX, 40, 40)]),
    token("supabase-key", "sb_secret_", &[Run(WORD, 22, 60)]),
    token("netlify-token", "nfp_", &[Run(ALNUM, 36, 36)]),
    // Where code is kept and built.
    token("github-token", "ghp_", &[Run(ALNUM, 36, 255)]),
    token("github-token", "gho_", &[Run(ALNUM, 36, 255)]),
    token("github-token", "ghu_", &[Run(ALNUM, 36, 255)]),
    token("github-token", "ghs_", &[Run(ALNUM, 36, 255)]),
    token("github-token", "ghr_", &[Run(ALNUM, 36, 255)]),
    token("github-token", "github_pat_", &[Run(WORD, 82, 255)]),
    token("gitlab-token", "glpat-", &[Run(WORD, 20, 300)]),
    token("gitlab-token", "gldt-", &[Run(WORD, 20, 300)]),
    token("gitlab-token", "glrt-", &[Run(WORD, 20, 300)]),
    token("gitlab-token", "glptt-", &[Run(HEX, 40, 40)]),
    token("gitlab-token", "glcbt-", &[Run(WORD, 20, 300)]),
    token("gitlab-token", "gloas-", &[Run(HEX, 64, 64)]),
    token("gitlab-token", "glagent-", &[Run(WORD, 50, 300)]),
    token("atlassian-token", "ATATT3", &[Run(WORD.or(Set::of(b"=")), 180, 200)]),
    token("atlassian-token", "ATCTT3", &[Run(WORD.or(Set::of(b"=")), 180, 200)]),
    token("buildkite-token", "bkua_", &[Run(HEX, 40, 40)]),
    token("circleci-token", "CCIPAT_", &[Run(ALNUM, 22, 22), Is("_"), Run(HEX, 40, 40)]),
    token("docker-token", "dckr_pat_", &[Run(WORD, 27, 27)]),
    token("docker-token", "dckr_oat_", &[Run(WORD, 32, 32)]),
    token("artifactory-key", "AKCp", &[Run(ALNUM, 69, 69)]),
    token("npm-token", "npm_", &[Run(ALNUM, 36, 36)]),
    setting("npm-token", "_authtoken", &[Assign, Run(WORD, 36, 200)]),
    token("pypi-token", "pypi-AgEIcHlwaS5vcmc", &[Run(WORD, 50, MANY)]),
    token("pypi-token", "pypi-AgENdGVzdC5weXBpLm9yZw", &[Run(WORD, 50, MANY)]),
    token("crates-io-token", "cio", &[Run(ALNUM, 32, 32)]),
    token("rubygems-key", "rubygems_", &[Run(HEX, 48, 48)]),
    token("clojars-token", "CLOJARS_", &[Run(LOWER_DIGIT, 60, 60)]),
    inside("terraform-token", (ALNUM, 14, 14), ".atlasv1.", &[Run(WORD, 60, 70)]),
    token("vault-token", "hvs.", &[Run(WORD, 90, 200)]),
    token("vault-token", "hvb.", &[Run(WORD, 90, 400)]),
    token("pulumi-token", "pul-", &[Run(HEX, 40, 40)]),
    token("doppler-token", "dp.pt.", &[Run(ALNUM, 40, 44)]),
    token("doppler-token", "dp.st.", &[Run(WORD.or(Set::of(b".")), 40, 80)]),
    token("onepassword-token", "ops_eyJ", &[Run(BASE64.or(Set::of(b"_-")), 250, MANY)]),
    // Models.
    token("anthropic-key", "sk-ant-", &[Run(WORD, 60, 300)]),
    token("openai-key", "sk-proj-", &[Run(WORD, 40, 300)]),
    token("openai-key", "sk-svcacct-", &[Run(WORD, 40, 300)]),
    token("openai-key", "sk-admin-", &[Run(WORD, 40, 300)]),
    token("openai-key", "sk-", &[Run(ALNUM, 48, 48)]),
    token("openrouter-key", "sk-or-v1-", &[Run(HEX, 64, 64)]),
    token("deepseek-key", "sk-", &[Run(HEX, 32, 32)]),
    token("huggingface-token", "hf_", &[Run(ALNUM, 34, 40)]),
    token("groq-key", "gsk_", &[Run(ALNUM, 52, 52)]),
    token("perplexity-key", "pplx-", &[Run(ALNUM, 48, 48)]),
    token("xai-key", "xai-", &[Run(ALNUM, 80, 80)]),
    token("replicate-token", "r8_", &[Run(ALNUM, 37, 37)]),
    token("langsmith-key", "lsv2_", &[Run(Set::LOWER, 2, 2), Is("_"), Run(HEX, 32, 32)]),
    token("elevenlabs-key", "sk_", &[Run(HEX, 48, 48)]),
    // Money.
    token("stripe-key", "sk_live_", &[Run(ALNUM, 20, 250)]),
    token("stripe-key", "rk_live_", &[Run(ALNUM, 20, 250)]),
    token("stripe-webhook-secret", "whsec_", &[Run(BASE64, 32, 64)]),
    token("square-token", "sq0atp-", &[Run(WORD, 22, 22)]),
    token("square-token", "sq0csp-", &[Run(WORD, 43, 43)]),
    token("shopify-token", "shpat_", &[Run(HEX, 32, 32)]),
    token("shopify-token", "shpca_", &[Run(HEX, 32, 32)]),
    token("shopify-token", "shppa_", &[Run(HEX, 32, 32)]),
    token("shopify-token", "shpss_", &[Run(HEX, 32, 32)]),
    token("flutterwave-key", "FLWSECK-", &[Run(ALNUM, 32, 32), Is("-X")]),
    // Messages.
    token("slack-token", "xoxb-", &[Run(DIGIT, 9, 14), Is("-"), Run(WORD, 20, 80)]),
    token("slack-token", "xoxp-", &[Run(DIGIT, 9, 14), Is("-"), Run(WORD, 30, 120)]),
    token("slack-token", "xoxa-", &[Run(WORD, 30, 120)]),
    token("slack-token", "xoxe-", &[Run(WORD, 60, 300)]),
    token("slack-token", "xoxe.xoxp-", &[Run(WORD, 60, 300)]),
    token("slack-token", "xapp-", &[Run(DIGIT, 1, 1), Is("-"), Run(WORD, 50, 150)]),
    token(
        "slack-webhook",
        "hooks.slack.com/services/T",
        &[Run(UPPER_DIGIT, 7, 12), Is("/B"), Run(UPPER_DIGIT, 7, 12), Is("/"), Run(ALNUM, 23, 25)],
    ),
    token(
        "discord-webhook",
        "discord.com/api/webhooks/",
        &[Run(DIGIT, 17, 20), Is("/"), Run(WORD, 60, 80)],
    ),
    token(
        "discord-webhook",
        "discordapp.com/api/webhooks/",
        &[Run(DIGIT, 17, 20), Is("/"), Run(WORD, 60, 80)],
    ),
    inside("telegram-token", (DIGIT, 8, 10), ":AA", &[Run(WORD, 33, 33)]),
    setting("twilio-token", "twilio_auth_token", &[Assign, Run(HEX, 32, 32)]),
    token("sendgrid-key", "SG.", &[Run(WORD, 22, 22), Is("."), Run(WORD, 43, 43)]),
    token("mailgun-key", "key-", &[Run(HEX, 32, 32)]),
    inside("mailchimp-key", (HEX, 32, 32), "-us", &[Run(DIGIT, 1, 2)]),
    token("brevo-key", "xkeysib-", &[Run(HEX, 64, 64), Is("-"), Run(ALNUM, 16, 16)]),
    token("resend-key", "re_", &[Run(ALNUM, 8, 8), Is("_"), Run(ALNUM, 24, 24)]),
    // What is measured, planned and drawn.
    setting("datadog-key", "dd_api_key", &[Assign, Run(HEX, 32, 32)]),
    setting("datadog-key", "datadog_api_key", &[Assign, Run(HEX, 32, 32)]),
    setting("datadog-key", "dd_app_key", &[Assign, Run(HEX, 40, 40)]),
    token("newrelic-key", "NRAK-", &[Run(UPPER_DIGIT, 27, 27)]),
    token("grafana-token", "glsa_", &[Run(ALNUM, 32, 32), Is("_"), Run(HEX, 8, 8)]),
    token("grafana-token", "glc_eyJ", &[Run(BASE64, 60, 400)]),
    token("sentry-token", "sntrys_eyJ", &[Run(WORD.or(Set::of(b"+/=")), 60, 500)]),
    token("sentry-token", "sntryu_", &[Run(HEX, 64, 64)]),
    token("linear-key", "lin_api_", &[Run(ALNUM, 40, 40)]),
    token("notion-token", "ntn_", &[Run(ALNUM, 46, 46)]),
    token("figma-token", "figd_", &[Run(WORD, 40, 60)]),
    token("postman-key", "PMAK-", &[Run(HEX, 24, 24), Is("-"), Run(HEX, 34, 34)]),
    token("mapbox-token", "sk.eyJ", &[Run(WORD, 60, 200), Is("."), Run(WORD, 22, 22)]),
];
