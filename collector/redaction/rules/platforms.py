"""Tokens of clouds, registries and messengers, told by the prefixes their makers gave them."""

from __future__ import annotations

from collector.redaction.edge import WORD
from collector.redaction.rule import Rule
from collector.redaction.validator import left_standalone, standalone

_HEX = "0123456789abcdef"
_LONG = "AbCdEfGhIjKlMnOpQrStUvWxYz0123456789"

RULES = (
    Rule(
        name="AZURE_KEY",
        gate=r"(?i)(?:accountkey|sharedaccesskey|sharedsecret)=|[?&;]sig=|[0-9]Q~",
        pattern=(
            r"(?i:accountkey=|sharedaccesskey=|sharedsecret=|[?&;]sig=)(?P<value>[A-Za-z0-9%+/_-]{20,}={0,2})"
            r"|[A-Za-z0-9_~.-]{3}[0-9]Q~[A-Za-z0-9_~.-]{31,34}"
        ),
        must_match=(
            "AccountName=a;AccountKey=" + "q83vASNFZ4mrze8BI0VniavN7wEjRWeJ" + "==;EndpointSuffix=x",
            "https://a.blob.core.windows.net/c?sv=2022&sig=" + "aB3dE6gH9jK2mN5pQ8sT1vW4yZ7bC0eF3hI6kL9%3D",
            "abc8Q~" + _LONG[:34],
        ),
        must_not_match=("AccountKey=", "?sig=short", "FAQ~ what is 8Q~x"),
    ),
    Rule(
        name="TWILIO_KEY",
        gate=WORD + r"(?:(?:SK|AC)[0-9a-f]{32})",
        gate_core=r"(?:SK|AC)[0-9a-f]{8}",
        pattern=r"(?:SK|AC)[0-9a-f]{32}",
        check=standalone,
        must_match=("SK" + _HEX * 2, "sid=AC" + _HEX * 2 + ",", '"SK' + _HEX * 2 + '"'),
        must_not_match=("SK" + _HEX, "RISK" + _HEX * 2, "SK" + _HEX * 2 + "0"),
    ),
    Rule(
        name="SENDGRID_KEY",
        gate=WORD + r"(?:SG\.[A-Za-z0-9_-]{8})",
        pattern=r"SG\.[A-Za-z0-9_-]{16,32}\.[A-Za-z0-9_-]{16,64}",
        check=left_standalone,
        must_match=(
            "SG." + _LONG[:22] + "." + _LONG + "abcdefg",
            "key: SG." + _LONG[:22] + "." + _LONG + "1234567;",
            '"SG.' + _LONG[2:24] + "." + _LONG + 'abcdefg"',
        ),
        must_not_match=("SG.short.x", "MSG." + _LONG[:22] + "." + _LONG, "SG.SomethingWithoutSecondPart"),
    ),
    Rule(
        name="NPM_TOKEN",
        gate=WORD + r"(?:npm_[A-Za-z0-9]{8})",
        pattern=r"npm_[A-Za-z0-9]{36}",
        check=standalone,
        must_match=("npm_" + _LONG, "_authToken=npm_" + _LONG + "\n", "(npm_" + _LONG + ")"),
        must_not_match=("npm_config_registry", "npm_" + _LONG[:20], "xnpm_" + _LONG),
    ),
    Rule(
        name="PYPI_TOKEN",
        gate=WORD + r"(?:pypi-AgE)",
        pattern=r"pypi-AgE[A-Za-z0-9_-]{16,}",
        check=left_standalone,
        must_match=(
            "pypi-AgE" + "IcHlwaS5vcmc" + _LONG,
            "password = pypi-AgE" + "NdGVzdC5weXBpLm9yZw" + _LONG,
            '"pypi-AgE' + "IcHlwaS5vcmc" + _LONG + '"',
        ),
        must_not_match=("pypi-server", "pypi-AgE", "xpypi-AgE" + "IcHlwaS5vcmc" + _LONG),
    ),
    Rule(
        name="HUGGINGFACE_TOKEN",
        gate=WORD + r"(?:hf_[A-Za-z0-9]{8}|api_org_[A-Za-z0-9]{8})",
        pattern=r"hf_[A-Za-z0-9]{30,}|api_org_[A-Za-z0-9]{30,}",
        check=left_standalone,
        must_match=("hf_" + _LONG[:34], "HF_TOKEN=hf_" + _LONG[:34] + ";", "api_org_" + _LONG[:34]),
        must_not_match=("hf_hub_download", "shf_" + _LONG, "hf_transformersandsoon"),
    ),
    Rule(
        name="GITLAB_TOKEN",
        gate=WORD + r"(?:gl(?:pat|dt|rt|ptt|ft|imt|agent|soat|cbt|oas|ffct)-[A-Za-z0-9_-]{4}|GR1348941)",
        gate_core=r"gl(?:pat|dt|rt|ptt|ft|imt|agent|soat|cbt|oas|ffct)-|GR1348941",
        pattern=(
            r"gl(?:pat|dt|rt|ptt|ft|imt|agent|soat|cbt|oas|ffct)-[A-Za-z0-9_-]{20,}(?:\.[A-Za-z0-9_-]+)*"
            r"|GR1348941[A-Za-z0-9_-]{20,}"
        ),
        check=left_standalone,
        must_match=("glpat-" + _LONG[:20], "PRIVATE-TOKEN: glpat-" + _LONG[4:24], "gldt-" + _LONG[:20] + "'"),
        must_not_match=("glpat-short", "glpatterns-in-general-use-today", "xglpat-" + _LONG[:20]),
    ),
    Rule(
        name="DISCORD_TOKEN",
        gate=r"(?i)\.[A-Z0-9_-]{6}\.[A-Z0-9_-]{12}|api\\*/webhooks\\*/[0-9]",
        pattern=(
            r"[MNO][A-Za-z0-9_-]{23,27}\.[A-Za-z0-9_-]{6}\.[A-Za-z0-9_-]{27,40}"
            r"|discord(?:app)?\.com/api/webhooks/(?P<value>[0-9]{5,}/[A-Za-z0-9_-]{20,})"
        ),
        check=left_standalone,
        must_match=(
            "MTIzNDU2Nzg5MDEyMzQ1Njc4" + ".AbCdEf." + _LONG[:30],
            "https://discord.com/api/webhooks/" + "123456789012345678/" + _LONG,
            "Bot NzkyNzE1NDU0MTk2MDg4ODQy" + ".X-hvzA." + "Ovy4MCQywSkoMRRclStW4xAYK7I",
        ),
        must_not_match=("Module.method.something_else", "discord.com/api/webhooks/", "MTIz.AbCdEf.xyz"),
    ),
    Rule(
        name="TELEGRAM_TOKEN",
        gate=r"[0-9]:AA[A-Za-z0-9_-]{4}",
        pattern=r"[0-9]{8,10}:AA[A-Za-z0-9_-]{33}",
        check=standalone,
        must_match=(
            "110201543:AA" + "HdqTcvCH1vGWJxfSeofSAs0K5PALDsaw1",
            "https://api.telegram.org/bot/110201543:AA" + "HdqTcvCH1vGWJxfSeofSAs0K5PALDsaw1/getMe",
            "token 110201543:AA" + "HdqTcvCH1vGWJxfSeofSAs0K5PALDsaw1.",
        ),
        must_not_match=("12:AAbcdefgh", "110201543:AAshort", "110201543:AB" + _LONG[:33]),
    ),
    Rule(
        name="PLATFORM_TOKEN",
        gate=WORD
        + (
            r"(?:dop_v1_|shp(?:at|ca|pa|ss)_|lin_api_|gsk_[A-Za-z0-9]{4}|xai-[A-Za-z0-9]{4}|r8_[A-Za-z0-9]{8}|pplx-"
            r"|lsv2_[ps]|dp\.[ps]t\.|NRAK-|sntry[su]_|glsa_|hvs\.|ATATT3|PMAK-|dapi[0-9a-f]{8}|ntn_|sbp_|tskey-"
            r"|AGE-SECRET-KEY-1|sk-lf-|fo1_)|PuTTY-User-Key-File"
        ),
        pattern=(
            r"dop_v1_[0-9a-f]{32,}|shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}|lin_api_[A-Za-z0-9]{32,}|gsk_[A-Za-z0-9]{40,}"
            r"|xai-[A-Za-z0-9]{40,}|r8_[A-Za-z0-9]{30,}|pplx-[A-Za-z0-9]{32,}|lsv2_[ps][tk]_[A-Za-z0-9_]{32,}"
            r"|dp\.[ps]t\.[A-Za-z0-9]{30,}|NRAK-[A-Z0-9]{20,}|sntry[su]_[A-Za-z0-9_=+/-]{30,}|glsa_[A-Za-z0-9_]{32,}"
            r"|hvs\.[A-Za-z0-9_-]{24,}|ATATT3[A-Za-z0-9_=-]{40,}|PMAK-[A-Za-z0-9-]{40,}|dapi[0-9a-f]{32}(?:-[0-9])?"
            r"|ntn_[A-Za-z0-9]{40,}|sbp_[0-9a-f]{40}|tskey-[a-z]+-[A-Za-z0-9-]{16,}|AGE-SECRET-KEY-1[A-Z0-9]{50,}"
            r"|PuTTY-User-Key-File-[0-9]:(?P<value>(?:[^\n]*\n){1,200}?Private-MAC: [0-9a-f]+)"
            # Cut off.
            r"|PuTTY-User-Key-File-[0-9]:(?:[^\n]*\n){1,60}?Private-Lines: [0-9]+(?:\s+[A-Za-z0-9+/=]{16,})*"
        ),
        check=left_standalone,
        must_match=(
            "dop_v1_" + _HEX * 4,
            "gsk_" + _LONG + _LONG[:16],
            "AGE-SECRET-KEY-1" + "QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L" * 2,
            "dapi" + _HEX * 2 + ".",
            "PuTTY-User-Key-File-3: ssh-ed25519\nPrivate-Lines: 1\nAAAA\nPrivate-MAC: 00ff",
        ),
        must_not_match=("dapi", "xai-grok", "hvs.local", "lin_api_short", "r8_integer_types_in_code"),
    ),
)
