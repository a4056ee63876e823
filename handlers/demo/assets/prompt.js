// The prompt box: one question, asked on either replica.
import { Answer } from './answer.js';

// startPrompt takes the key to ask with, and what is to be known of the model.
export function startPrompt({ key, model }) {
  const form = document.getElementById('prompt');
  const note = document.getElementById('model-note');
  if (model) {
    note.textContent = `It is ${model}.`;
    note.hidden = false;
  }
  if (!key) {
    for (const control of form.querySelectorAll('input, button')) control.disabled = true;
    document.getElementById('prompt-problem').textContent = 'There is no API key to ask with.';
    return;
  }
  const answers = new Map(['a', 'b'].map((replica) => [replica, new Answer(replica, key)]));
  document.getElementById('answers').append(...[...answers.values()].map((a) => a.element));
  keep('question');
  keep('model');
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    const { question, model } = form.elements;
    answers.get(event.submitter?.value || 'a').ask(model.value.trim(), question.value.trim());
  });
  suggestModels(key);
}

// keep lets what was typed outlive a reload, beside the answers.
function keep(id) {
  const input = document.getElementById(id);
  const place = `forgewire.${id}`;
  try {
    input.value = sessionStorage.getItem(place) ?? input.value;
    input.addEventListener('input', () => sessionStorage.setItem(place, input.value));
  } catch {
    // Not allowed: then it is forgotten.
  }
}

// Where there is one model, there is nothing to choose.
async function suggestModels(key) {
  try {
    const response = await fetch('/v1/models', { headers: { Authorization: `Bearer ${key}` } });
    const { data } = await response.json();
    const names = data.map(({ id }) => id);
    document.getElementById('models').append(...names.map((name) => new Option(name, name)));
    const input = document.getElementById('model');
    if (names.length === 1 && input.value === '') input.value = names[0];
  } catch {
    // Not every server has a list; a name can be typed.
  }
}
