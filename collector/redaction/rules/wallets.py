"""Addresses of crypto-currencies: what is paid to them is public, whose they are is not."""

from __future__ import annotations

from collector.redaction.edge import WORD
from collector.redaction.rule import Rule
from collector.redaction.validator import standalone, standard_number

_BASE58 = "[1-9A-HJ-NP-Za-km-z]"

RULES = (
    Rule(
        name="CRYPTO_WALLET",
        gate=rf"{WORD}0x[0-9a-fA-F]{{40}}",
        gate_core=r"0x[0-9a-fA-F]{8}",
        pattern=r"0x[0-9a-fA-F]{40}",
        check=standalone,
        canonical=str.lower,
        must_match=(
            "0x52908400098527886E0F7030069857D2E4169EE7",
            "send to 0xde709f2102306220921060314715629080e2fb77.",
            "wallet=0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359;",
        ),
        must_not_match=(
            "0x52908400098527886E0F7030069857D2E4169EE",
            "0x9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
            "de709f2102306220921060314715629080e2fb77",
        ),
    ),
    Rule(
        name="CRYPTO_WALLET",
        gate=rf"{WORD}(?i:bc1)[A-Za-z0-9]{{11}}",
        pattern=r"(?i)bc1[a-z0-9]{11,71}",
        check=standard_number("bitcoin"),
        canonical=str.lower,
        must_match=(
            "BC1QARDV855YJNGSPVXUTTQ897AQCA3LXJU2Y69JCE",
            "bc1qardv855yjngspvxuttq897aqca3lxju2y69jce,",
            "bitcoin:bc1qardv855yjngspvxuttq897aqca3lxju2y69jce?amount=1",
        ),
        must_not_match=(
            "bc1qardv855yjngspvxuttq897aqca3lxju2y69jcf",
            "abc1qardv855yjngspvxuttq897aqca3lxju2y69jce",
            "bc1short",
        ),
    ),
    # Base58 looks like any other id, so a word is asked for as well as the check sum.
    Rule(
        name="CRYPTO_WALLET",
        announced=True,
        pattern=rf"[13]{_BASE58}{{25,34}}",
        check=standard_number("bitcoin"),
        context=("bitcoin", "btc", "wallet", "satoshi"),
        must_match=(
            "btc 1NEDqZPvTWRaoho48qXuLLsrYomMXPABfD",
            "Bitcoin address: 1NEDqZPvTWRaoho48qXuLLsrYomMXPABfD.",
            "wallet=1NEDqZPvTWRaoho48qXuLLsrYomMXPABfD",
        ),
        must_not_match=(
            "1NEDqZPvTWRaoho48qXuLLsrYomMXPABfD",
            "btc 1NEDqZPvTWRaoho48qXuLLsrYomMXPABfE",
            "wallet 1NEDq",
        ),
    ),
    Rule(
        name="CRYPTO_WALLET",
        announced=True,
        pattern=rf"[48][0-9AB]{_BASE58}{{93}}",
        check=standalone,
        context=("monero", "xmr", "wallet"),
        must_match=(
            "monero 44AFFq5kSiGBoZ4NMDwYtN18obc8AemS33DBLWs3H7otXft3XjrpDtQGv7SqSsaBYBb98uNbr2VBBEt7f2wfn3RVGQBEP3A",
            "xmr: 44AFFq5kSiGBoZ4NMDwYtN18obc8AemS33DBLWs3H7otXft3XjrpDtQGv7SqSsaBYBb98uNbr2VBBEt7f2wfn3RVGQBEP3A.",
            "wallet=44AFFq5kSiGBoZ4NMDwYtN18obc8AemS33DBLWs3H7otXft3XjrpDtQGv7SqSsaBYBb98uNbr2VBBEt7f2wfn3RVGQBEP3A",
        ),
        must_not_match=(
            "44AFFq5kSiGBoZ4NMDwYtN18obc8AemS33DBLWs3H7otXft3XjrpDtQGv7SqSsaBYBb98uNbr2VBBEt7f2wfn3RVGQBEP3A",
            "monero 44AFFq5kSiGBoZ4NMDwYtN18",
            "xmr price 44.12",
        ),
    ),
)
