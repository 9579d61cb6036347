"""Rows of the example 'polite letters': a blunt note, and the letter that asks for the same."""

NAMES = ("Anna", "Tom", "Mary", "Peter", "Lucy", "John", "Sarah", "Ben", "Emma", "Jack", "Alice", "Henry")

ACTIONS: dict[str, tuple[str, ...]] = {
    "bring": ("the keys", "the chairs", "some bread", "the red box", "the old map"),
    "send me": ("the letter", "the list", "the new price", "the photos", "the old map"),
    "clean": ("the kitchen", "the windows", "the garden", "the car", "the old house"),
    "open": ("the door", "the windows", "the red box", "the letter", "the shop"),
    "find": ("the keys", "my book", "a good doctor", "the dog", "the photos"),
    "buy": ("some bread", "some milk", "a new lamp", "the tickets", "a good book"),
    "call": ("the doctor", "my mother", "the school", "the shop", "the bank"),
    "write to": ("the bank", "the king", "my mother", "the school", "the old man"),
    "paint": ("the door", "the chairs", "the kitchen", "the fence", "the boat"),
    "sell": ("the car", "the boat", "the old house", "the tickets", "my book"),
    "wait for": ("the boat", "the dog", "the old man", "the doctor", "my sister"),
    "look after": ("the dog", "my sister", "the garden", "the shop", "the boat"),
}

TIMES = (
    "on Monday",
    "on Friday",
    "on Sunday",
    "before noon",
    "this evening",
    "tomorrow",
    "next week",
    "by six o'clock",
)

NOTES = (
    "{to}, {action} {when}. {sender}",
    "Tell {to} to {action} {when}. From {sender}",
    "{to} must {action} {when}. That is all. {sender}",
    "I want {to} to {action} {when}. {sender}",
    "{to}! Do not forget: {action} {when}! {sender}",
)

COLUMNS = ("note", "letter")


def is_held_out(verb: str, thing: str) -> bool:
    """Whether an action belongs to the part for checking: no such pair of verb and thing is ever trained on."""
    return (list(ACTIONS).index(verb) + ACTIONS[verb].index(thing)) % 5 == 0


def actions(*, held_out: bool) -> list[str]:
    """Every action of one part; the words of each occur in both."""
    return [
        f"{verb} {thing}"
        for verb, things in ACTIONS.items()
        for thing in things
        if is_held_out(verb, thing) == held_out
    ]


def letter(to: str, action: str, when: str, sender: str) -> str:
    """The polite form, three lines long."""
    return f"Dear {to},\ncould you please {action} {when}? Thank you very much.\nWith kind wishes, {sender}"
