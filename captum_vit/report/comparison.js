// The page of a comparison.

document.documentElement.classList.add("script");
{
  const section = document.querySelector(".comparison"), figures = [...section.querySelectorAll(".part")];
  const data = JSON.parse(section.querySelector('script[type="application/json"]').textContent);
  const own = [...section.querySelectorAll("[data-part]")].filter((element) => !element.closest(".part"));
  const photos = section.querySelectorAll(".photos img");
  const controls = new Controls(document.getElementById("display"), () => shown.update());
  const part = Object.fromEntries(own.map((element) => [element.dataset.part, element]));
  const shown = new SideBySide(part, controls);
  shown.put(figures, data, data.parts.map(({ photo }) => photos[photo]));
}
