"""Rows of the example 'event notices': what, where, when and for how much, and the sentence that says so."""

from dataclasses import dataclass

from app.examples.support_phrases import DAYS

SHOWS = ("concert", "puppet show", "film night", "play", "dance", "magic show")
LESSONS = ("cooking class", "drawing class", "swimming class", "music class", "writing class")
MEETINGS = ("book club", "chess club", "garden club", "running club", "singing group")
EVENTS = (*SHOWS, *LESSONS, *MEETINGS)
PLACES = (
    "library", "town hall", "school", "museum", "park", "church", "market", "theatre", "hotel", "old mill", "station",
    "garden",
)  # fmt: skip
INSIDE = ("park", "old mill", "garden")
"""Places that things happen in; they happen at the others."""
HOURS = ("10 am", "11 am", "2 pm", "3 pm", "4 pm", "5 pm", "6 pm", "7 pm", "8 pm", "9 pm")
PRICES = ("free", "2 dollars", "3 dollars", "4 dollars", "5 dollars", "8 dollars", "10 dollars", "12 dollars")
COLUMNS = ("event", "place", "day", "time", "price", "notice")


@dataclass(frozen=True)
class Event:
    """One thing that happens."""

    event: str
    place: str
    day: str
    time: str
    price: str

    def notice(self) -> str:
        """The sentence for the board; its form follows from the kind of event and from the price."""
        where = f"{'in' if self.place in INSIDE else 'at'} the {self.place}"
        where_and_when = f"{where} on {self.day} at {self.time}"
        cost = "It is free for all." if self.price == "free" else f"A ticket costs {self.price}."
        if self.event in SHOWS:
            return f"Come and see the {self.event} {where_and_when}. {cost}"
        if self.event in LESSONS:
            return f"Learn something new: the {self.event} starts {where_and_when}. {cost}"
        return f"All are welcome: the {self.event} meets {where_and_when}. {cost}"


def is_held_out(event: str, place: str) -> bool:
    """Whether an event at a place belongs to the part for checking: no such pair is ever trained on."""
    return (EVENTS.index(event) + PLACES.index(place)) % 4 == 0


def pairs(*, held_out: bool) -> list[tuple[str, str]]:
    """Every pair of event and place of one part."""
    return [(event, place) for event in EVENTS for place in PLACES if is_held_out(event, place) == held_out]


def choices() -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Days, hours and prices, from which both parts draw."""
    return DAYS, HOURS, PRICES
