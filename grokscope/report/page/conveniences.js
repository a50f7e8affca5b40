// Commands get a button that copies them, and printing opens what is folded away.
{
  const { make } = grokscope;
  for (const code of document.querySelectorAll("code.copy")) {
    const button = make("button", { type: "button", class: "copy" }, "copy");
    button.addEventListener("click", () => {
      const done = (word) => {
        button.textContent = word;
        setTimeout(() => { button.textContent = "copy"; }, 1500);
      };
      if (navigator.clipboard) {
        navigator.clipboard.writeText(code.textContent).then(() => done("copied"), () => done("select it"));
      } else {
        getSelection().selectAllChildren(code);
        done("selected");
      }
    });
    code.after(" ", button);
  }
  addEventListener("beforeprint", () => {
    for (const details of document.querySelectorAll("details:not([open])")) {
      details.open = true;
      details.dataset.print = "";
    }
  });
  addEventListener("afterprint", () => {
    for (const details of document.querySelectorAll("details[data-print]")) {
      details.open = false;
      delete details.dataset.print;
    }
  });
}
