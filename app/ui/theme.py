"""The look of the page: system fonts (nothing is fetched), one accent, light and dark from the same names."""

from pathlib import Path

import gradio as gr

FONTS = ["ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif"]
MONOSPACE = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace"]

ACCENT = gr.themes.Color(
    name="accent",
    c50="#f0fdfa",
    c100="#ccfbf1",
    c200="#99f6e4",
    c300="#5eead4",
    c400="#2dd4bf",
    c500="#0f766e",
    c600="#0f766e",
    c700="#0f766e",
    c800="#115e59",
    c900="#134e4a",
    c950="#042f2e",
)
"""Teal whose middle tones are dark enough for white text on them (contrast 5.5)."""

STYLE_SHEETS = [Path(__file__).with_name(name) for name in ("style.css", "doctor.css", "playground.css", "runs.css")]
SCRIPTS = [Path(__file__).with_name(name) for name in ("events.js", "page.js", "jobs.js")]


def script() -> str:
    """What runs in the browser once the page has loaded, as one function, which is all that Gradio takes."""
    parts = "\n".join(f"({path.read_text(encoding='utf-8').rstrip()}\n)();" for path in SCRIPTS)
    return f"() => {{\n{parts}\n}}"


def build_theme() -> gr.themes.Base:
    """Gradio's plain theme with this product's colours, corners and spacing."""
    theme = gr.themes.Base(
        primary_hue=ACCENT,
        secondary_hue=gr.themes.colors.slate,
        neutral_hue=gr.themes.colors.slate,
        radius_size=gr.themes.sizes.radius_md,
        text_size=gr.themes.sizes.text_md,
        font=FONTS,
        font_mono=MONOSPACE,
    )
    return theme.set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        block_background_fill="white",
        block_background_fill_dark="*neutral_900",
        block_border_width="1px",
        block_border_color="*neutral_200",
        block_border_color_dark="*neutral_800",
        block_shadow="none",
        block_label_background_fill="transparent",
        block_label_border_width="0px",
        block_label_text_color="*neutral_700",
        block_label_text_color_dark="*neutral_300",
        block_title_text_color="*neutral_800",
        block_title_text_color_dark="*neutral_200",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_400",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_400",
        input_background_fill="white",
        input_background_fill_dark="*neutral_900",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        input_border_width="1px",
        input_border_color="*neutral_300",
        input_border_color_dark="*neutral_700",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_600",
        button_primary_text_color="white",
        button_primary_text_color_dark="white",
        button_secondary_background_fill="white",
        button_secondary_background_fill_dark="*neutral_800",
        button_secondary_border_color="*neutral_300",
        button_secondary_border_color_dark="*neutral_700",
        button_border_width="1px",
        slider_color="*primary_700",
    )
