// The page: what the model is, and the views that suit it.

import { drawView } from "./draw.js";
import { fillView } from "./fill.js";
import { gameView } from "./game.js";
import { during, say } from "./messages.js";
import { samplesView } from "./samples.js";
import { look } from "./served.js";

const VIEWS = { draw: drawView, samples: samplesView, fill: fillView, game: gameView };

during("Asking the server for its model …", [], async () => {
  const model = await look();
  const able = { ...model, unconditional: !model.conditional };
  const links = [...document.querySelectorAll("nav a")].filter((link) => able[link.dataset.needs]);
  for (const link of links) {
    link.hidden = false;
    const name = link.hash.slice(1);
    VIEWS[name](document.getElementById(name), model);
  }
  addEventListener("hashchange", () => go(links));
  go(links);
  say("");
});

function go(links) {
  const shown = links.find((each) => each.hasAttribute("aria-current"));
  const link = links.find(({ hash }) => hash === location.hash) ?? shown ?? links[0];
  for (const each of links) {
    document.getElementById(each.hash.slice(1)).hidden = each !== link;
    if (each === link) each.setAttribute("aria-current", "page");
    else each.removeAttribute("aria-current");
  }
}
