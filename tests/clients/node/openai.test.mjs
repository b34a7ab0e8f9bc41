// The official JavaScript client: chat and responses.

import assert from "node:assert/strict";
import { describe, test } from "node:test";

import OpenAI from "openai";
import { zodFunction, zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";

import * as asked from "./asked.mjs";

const { model } = asked;
const client = new OpenAI({ baseURL: asked.v1, apiKey: "none", maxRetries: 0 });
const Reading = z.object({ number: z.int() });
const Place = z.object({ city: z.string() });
const weatherTool = zodFunction({ name: "get_weather", parameters: Place });
const picture = [
  {
    role: "user",
    content: [
      { type: "image_url", image_url: { url: asked.pictureUrl } },
      { type: "text", text: asked.readNumber },
    ],
  },
];
const user = (content) => [{ role: "user", content }];
const chat = { model, temperature: 0, max_tokens: 128, ...asked.noThinking };
const response = {
  model,
  temperature: 0,
  max_output_tokens: 128,
  reasoning: { effort: "none" },
  store: false,
};

describe("chat", () => {
  for (const [messages, answer] of [[picture, asked.number], [user(asked.add), asked.sum]]) {
    test(`whole and streamed agree on ${answer}`, async () => {
      const whole = await client.chat.completions.create({ ...chat, messages });
      assert.equal(whole.choices[0].message.content, answer);
      const stream = client.chat.completions.stream({
        ...chat,
        messages,
        stream_options: { include_usage: true },
      });
      assert.equal(await stream.finalContent(), answer);
      assert.equal((await stream.totalUsage()).total_tokens, whole.usage.total_tokens);
    });
  }

  test("a tool runs and its result is told", async () => {
    const cities = [];
    const run = client.chat.completions.runTools({
      ...chat,
      messages: user(asked.askWeather),
      tools: [
        {
          type: "function",
          function: {
            name: "get_weather",
            parse: JSON.parse,
            parameters: z.toJSONSchema(Place),
            function: ({ city }) => cities.push(city) && asked.weather,
          },
        },
      ],
    });
    assert.equal(await run.finalContent(), asked.weatherAnswer);
    assert.deepEqual(cities, ["Paris"]);
  });

  test("a streamed forced tool call is parsed", async () => {
    const stream = client.chat.completions.stream({
      ...chat,
      messages: user(asked.askWeather),
      tools: [weatherTool],
      tool_choice: "required",
    });
    const [call] = (await stream.finalMessage()).tool_calls;
    assert.equal(typeof call.function.parsed_arguments.city, "string");
  });

  test("parse fills a type", async () => {
    const completion = await client.chat.completions.parse({
      ...chat,
      messages: picture,
      response_format: zodResponseFormat(Reading, "reading"),
    });
    assert.ok(Number.isInteger(completion.choices[0].message.parsed.number));
  });

  test("faults keep their kind", async () => {
    const create = (fields) =>
      client.chat.completions.create({ ...chat, messages: user(asked.add), ...fields });
    await assert.rejects(create({ model: "another" }), OpenAI.NotFoundError);
    await assert.rejects(create({ temperature: 9 }), (error) => {
      assert.ok(error instanceof OpenAI.BadRequestError);
      assert.equal(error.param, "temperature");
      return true;
    });
  });
});

describe("responses", () => {
  const input = user([
    { type: "input_image", image_url: asked.pictureUrl, detail: "auto" },
    { type: "input_text", text: asked.readNumber },
  ]);

  test("whole and streamed agree", async () => {
    const whole = await client.responses.create({ ...response, input });
    assert.equal(whole.output_text, asked.number);
    const final = await client.responses.stream({ ...response, input }).finalResponse();
    assert.equal(final.output_text, asked.number);
    assert.equal(final.usage.total_tokens, whole.usage.total_tokens);
  });

  test("a tool call goes round", async () => {
    const tools = [
      { type: "function", name: "get_weather", parameters: z.toJSONSchema(Place), strict: true },
    ];
    const request = { ...response, tools, input: user(asked.askWeather) };
    const { output } = await client.responses.create({ ...request, tool_choice: "required" });
    const [call] = output;
    assert.deepEqual(JSON.parse(call.arguments), { city: "Paris" });
    const result = {
      type: "function_call_output",
      call_id: call.call_id,
      output: JSON.stringify(asked.weather),
    };
    const history = [...request.input, ...output, result];
    const answer = await client.responses.create({ ...request, input: history });
    assert.equal(answer.output_text, asked.weatherAnswer);
  });

  test("parse fills a type", async () => {
    const parsed = await client.responses.parse({
      ...response,
      input,
      text: { format: zodTextFormat(Reading, "reading") },
    });
    assert.ok(Number.isInteger(parsed.output_parsed.number));
  });
});
