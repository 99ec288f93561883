"""The customers of the example shop: who they are, what they ask, and the personal data they type into the box.

Everything is made from a number, so the demo can list every personal value that was ever sent and look for it.
"""

from __future__ import annotations

from typing import NamedTuple

_FIRST = ("jane", "omar", "li", "sofia", "arun", "emma", "noah", "fatima", "lucas", "ines", "yuki", "ada")
_LAST = (
    "doe",
    "haddad",
    "wei",
    "rossi",
    "patel",
    "schmidt",
    "brown",
    "khan",
    "silva",
    "moreau",
    "sato",
    "byron",
)

TOPICS = (
    (
        "refund",
        "How long does a refund take after I return my headphones?",
        "Refunds are paid within five working days after the returned parcel reaches our warehouse. "
        "The refund goes to the payment method that was used for the order. "
        "Opened headphones can be returned within thirty days.",
    ),
    (
        "shipping",
        "When will my order arrive if I choose express shipping?",
        "Express shipping arrives on the next working day when the order is placed before noon. "
        "Standard shipping takes three to five working days. "
        "Express orders placed on Saturday arrive on Tuesday.",
    ),
    (
        "password",
        "I cannot log in to my account, how do I reset my password?",
        "To reset your password, open the sign-in page and choose the link for a forgotten password. "
        "The reset link in the message is valid for two hours. "
        "An account is locked for fifteen minutes after five wrong passwords.",
    ),
    (
        "warranty",
        "Does the warranty cover a broken display on my tablet?",
        "The warranty covers faults of material and manufacture for twenty-four months. "
        "A broken display caused by a fall is not covered by the warranty. "
        "The accident protection plan covers a broken display once per year.",
    ),
    (
        "invoice",
        "Where can I download the invoice for my last purchase?",
        "Every invoice can be downloaded from the order history in your account. "
        "Invoices are kept for ten years. "
        "Business customers can add a tax number before the purchase is completed.",
    ),
    (
        "cancel",
        "Can I cancel my subscription before the end of the month?",
        "A subscription can be cancelled at any time and ends with the current billing month. "
        "After the cancellation you keep access until the month ends. "
        "Yearly subscriptions are refunded for unused full months.",
    ),
)


class Customer(NamedTuple):
    """One customer and what they give away."""

    number: int
    email: str
    card: str
    key: str
    plan: str
    topic: str
    question: str
    document: str


def customer(number: int) -> Customer:
    """Return customer ``number``, always the same."""
    topic, question, document = TOPICS[number % len(TOPICS)]
    email = f"{_FIRST[number % 12]}.{_LAST[number // 12 % 12]}.{number}@customers.example"
    card = _with_check_digit(f"4{number * 7919 % 10**14:014d}")
    key = "sk-" + "proj-" + f"{number * 104729:x}".rjust(10, "f") + "Zx9QwErTy" * 4
    confided = (
        f"My e-mail is {email}.",
        f"I paid with card {' '.join(card[i : i + 4] for i in range(0, 16, 4))}, please check.",
        f"Our integration uses the key {key} if that helps.",
        f'Here is what the app sent: {{"contact": "{email}",\n"card": "{card}"}}',
    )[number % 4]
    plan = "business" if number % 3 == 0 else "private"
    return Customer(number, email, card, key, plan, topic, f"{question}\n{confided}", document)


def personal_values(count: int) -> set[str]:
    """Return every personal value the first ``count`` customers can have sent."""
    values = set()
    for number in range(count):
        person = customer(number)
        values |= {person.email, person.card, person.key}
    return values


def _with_check_digit(digits: str) -> str:
    """Append the Luhn check digit (ISO/IEC 7812-1)."""
    total = 0
    for index, character in enumerate(reversed(digits)):
        digit = int(character)
        if index % 2 == 0:
            digit = digit * 2 - 9 * (digit > 4)
        total += digit
    return digits + str(-total % 10)
