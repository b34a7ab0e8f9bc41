// What every client asks, as in asked.py, and where the server is.

import { readFileSync } from "node:fs";

export const url = process.env.SERVER_URL;
export const model = process.env.SERVER_MODEL;
export const v1 = `${url}/v1`;
export const picture = readFileSync(
  new URL("../../../demo/examples/number.png", import.meta.url),
);
export const pictureUrl = `data:image/png;base64,${picture.toString("base64")}`;
export const readNumber = "What number is shown?";
export const number = "407";
export const add = "What is 3 + 4?";
export const sum = "7";
export const askWeather = "What is the weather in Paris?";
export const weather = { temperature: 21 };
export const weatherAnswer = "It is 21 degrees in Paris.";
export const noThinking = { chat_template_kwargs: { enable_thinking: false } };

export async function collect(stream) {
  const items = [];
  for await (const item of stream) items.push(item);
  return items;
}
