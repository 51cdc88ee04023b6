"""How the page looks, and the one script that it has of its own."""

from __future__ import annotations

from typing import Any

from vacsr_jax.report.search_page import TONES


def make_theme() -> Any:
    """Gradio's theme with fonts of the system, since its own come from the network, and with enough contrast."""
    import gradio

    theme = gradio.themes.Default(
        primary_hue="teal", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    )
    return theme.set(
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        slider_color="*primary_700",
        color_accent="*primary_700",
        checkbox_background_color_selected="*primary_700",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        block_title_text_color="*neutral_800",
        block_title_text_color_dark="*neutral_100",
    )


# Clicks in the grid become events of Gradio. Escape closes the details; the button that opened them gets the focus.
GRID_SCRIPT = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-act]');
  if (!button) return;
  window.vacsrOpened = button;
  if (button.dataset.act === 'like') { window.scrollTo({top: 0}); trigger('like', {id: button.dataset.id}); }
  else trigger('open', {id: button.dataset.id});
});
if (!window.vacsrEscape) {
  window.vacsrEscape = true;
  document.addEventListener('keydown', (event) => {
    if (event.key === 'Escape') document.querySelector('#close')?.click();
  });
}
"""

STYLE = (
    """
.vacsr{--ink:#1d2430;--soft:#5b6472;--grid:#dcdfe4;--card:#fff;--c0:#0b6e5f;--c1:#c2500a;--c2:#5b6b82;--c3:#7a3fb0;
color:var(--ink);font-size:15px;line-height:1.45}
.dark{--color-accent:var(--primary-400)!important}
.vacsr .scroll.words svg{min-width:560px;max-width:none}
.dark .vacsr{--ink:#e7eaf0;--soft:#a3acba;--grid:#363d48;--card:#1c2027;--c0:#4ccfb6;--c1:#ff9d57;--c2:#9fb0c8;
--c3:#c79bf2}
"""
    + TONES
    + """
.vacsr p{margin:4px 0}
.vacsr .note,.vacsr figcaption{color:var(--soft);font-size:13px}
.vacsr .fault{border-left:4px solid #b3261e;padding:8px 12px;background:var(--card)}
.vacsr .found{list-style:none;margin:8px 0 0;padding:0;display:grid;gap:12px;
grid-template-columns:repeat(auto-fill,minmax(min(180px,44%),1fr))}
.vacsr .found li>*,.vacsr .actions>*{margin:0}
.vacsr .found li{position:relative;display:flex;flex-direction:column;gap:6px;margin:0;padding:10px;
background:var(--card);
box-shadow:inset 0 0 0 1px var(--grid);border-top:4px solid var(--tone)!important;border-radius:8px;
content-visibility:auto;
contain-intrinsic-size:auto 300px}
.vacsr .rank{position:absolute;top:6px;left:8px;color:var(--soft);font-size:12px;font-variant-numeric:tabular-nums}
.vacsr .what{flex:1;min-width:0;display:flex;flex-direction:column;justify-content:center;gap:6px;padding-top:14px}
.vacsr .what a{display:block}
.vacsr .what img{display:block;width:100%;height:auto;aspect-ratio:1;object-fit:contain;background:#fff;
border-radius:4px}
.vacsr q{font-size:16px;overflow-wrap:anywhere;quotes:"“" "”"}
.vacsr code{color:var(--soft);font-size:11px;overflow-wrap:anywhere;background:none;padding:0;border:0}
.vacsr .facts{display:flex;flex-wrap:wrap;gap:2px 10px;font-size:13px;font-variant-numeric:tabular-nums}
.vacsr .facts i{color:var(--soft)}
.vacsr .words{flex-basis:100%}
.vacsr .badge{color:var(--tone)}
.vacsr .actions{display:flex;flex-wrap:wrap;gap:6px}
.vacsr .actions button{flex:1 1 auto;min-height:32px;padding:4px 8px;font:inherit;font-size:13px;color:var(--ink);
background:none;border:1px solid var(--grid);border-radius:6px;cursor:pointer;white-space:nowrap}
.vacsr .actions button:hover{border-color:var(--tone)}
.vacsr a:focus-visible,.vacsr button:focus-visible{outline:3px solid var(--tone);outline-offset:2px}
.vacsr h2{font-size:20px;margin:4px 0 8px}.vacsr h3{font-size:16px;margin:14px 0 4px}
.vacsr blockquote{font-size:19px;margin:8px 0;padding:8px 14px;border-left:4px solid var(--c1)}
.vacsr .whole{max-width:100%;max-height:50vh;min-width:min(256px,100%);object-fit:contain;background:#fff;
border-radius:6px}
.vacsr figure{margin:12px 0}.vacsr svg{display:block;width:100%;max-width:620px;height:auto}
.vacsr svg text{font-family:inherit!important}
.vacsr .diagnosis{width:100%;max-width:900px;min-width:620px;background:#fff;border-radius:6px}
.vacsr ul{padding-left:0;list-style:none;margin:6px 0}
.vacsr .scroll{overflow-x:auto}
.vacsr table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
.vacsr th,.vacsr td{padding:8px 10px;text-align:left;border-bottom:1px solid var(--grid);font-weight:400;
vertical-align:top}
.vacsr table,.vacsr thead,.vacsr tbody,.vacsr tr,.vacsr th,.vacsr td{border:0!important}
.vacsr th,.vacsr td{border-bottom:1px solid var(--grid)!important}
.vacsr thead th{color:var(--soft);font-size:13px;font-weight:600}
.vacsr .bar{display:block;height:6px;margin-bottom:4px;border-radius:3px;
background:linear-gradient(to right,var(--c0) calc(100%*var(--p)),var(--grid) 0)}
.drop .wrap{font-size:14px!important}
#detail{position:fixed;top:0;right:0;bottom:0;z-index:50;width:min(560px,100vw);padding:16px;overflow-y:auto;
background:var(--body-background-fill);border-left:1px solid var(--border-color-primary);box-shadow:-8px 0 32px #0004;
flex-wrap:nowrap}
@media (max-width:640px){.vacsr .what img{max-height:150px}.vacsr th,.vacsr td{padding:6px}
.vacsr table.captions,.vacsr .captions tbody{display:block}.vacsr .captions thead{display:none}
.vacsr .captions tr{display:grid;grid-template-columns:2em 1fr;padding:6px 0;
border-bottom:1px solid var(--grid)!important}
.vacsr .captions td,.vacsr .captions th{border:0!important;padding:2px 4px}
.vacsr .captions td:nth-child(n+3){grid-column:2}
.vacsr .captions td[data-name]::before{content:attr(data-name) " ";color:var(--soft)}}
"""
)
