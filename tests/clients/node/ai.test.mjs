// Vercel's AI SDK over each API that it speaks.

import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, generateObject, generateText, Output, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

import * as asked from "./asked.mjs";

const openai = createOpenAI({ baseURL: asked.v1, apiKey: "none" });
const compatible = createOpenAICompatible({
  baseURL: asked.v1,
  name: "compatible",
  includeUsage: true,
  supportsStructuredOutputs: true,
});
const anthropic = createAnthropic({ baseURL: asked.v1, apiKey: "none" });

// Each with the options that turn thinking off, and those that turn it on.
const apis = {
  "openai chat": [openai.chat, { openai: { reasoningEffort: "none" } }, null],
  // It tells only models whose names it knows to be OpenAI's how much to think, unless forced to.
  "openai responses": [
    openai.responses,
    { openai: { reasoningEffort: "none", store: false, forceReasoning: true } },
    { openai: { reasoningEffort: "medium", store: false, forceReasoning: true } },
  ],
  compatible: [compatible, { compatible: asked.noThinking }, {}],
  anthropic: [
    anthropic,
    { anthropic: { thinking: { type: "disabled" } } },
    { anthropic: { thinking: { type: "enabled", budgetTokens: 128 } } },
  ],
};
const Reading = z.object({ number: z.number() });
const picture = [
  {
    role: "user",
    content: [
      { type: "image", image: asked.picture },
      { type: "text", text: asked.readNumber },
    ],
  },
];

for (const [name, [provider, direct, thinking]] of Object.entries(apis)) {
  describe(name, () => {
    const request = {
      model: provider(asked.model),
      temperature: 0,
      maxOutputTokens: 256,
      maxRetries: 0,
      providerOptions: direct,
    };

    test("whole and streamed agree", async () => {
      const whole = await generateText({ ...request, messages: picture });
      assert.equal(whole.text, asked.number);
      assert.equal(whole.finishReason, "stop");
      const stream = streamText({ ...request, messages: picture });
      assert.equal((await asked.collect(stream.textStream)).join(""), asked.number);
      assert.equal((await stream.usage).outputTokens, whole.usage.outputTokens);
      assert.ok(whole.usage.outputTokens > 0);
    });

    test("thinking is reasoning text", { skip: !thinking && "it shows none" }, async () => {
      const options = { ...request, prompt: asked.add, providerOptions: thinking };
      const whole = await generateText(options);
      assert.equal(whole.text, asked.sum);
      assert.ok(whole.reasoning.length > 0);
      const parts = await asked.collect(streamText(options).fullStream);
      assert.ok(parts.some((part) => part.type === "reasoning-start"));
    });

    for (const call of [generateText, streamText]) {
      test(`a tool runs and its result is told: ${call.name}`, async () => {
        const cities = [];
        const result = call({
          ...request,
          prompt: asked.askWeather,
          stopWhen: stepCountIs(3),
          tools: {
            get_weather: tool({
              inputSchema: z.object({ city: z.string() }),
              execute: ({ city }) => cities.push(city) && asked.weather,
            }),
          },
        });
        assert.equal(await (await result).text, asked.weatherAnswer);
        assert.deepEqual(cities, ["Paris"]);
      });
    }

    test("a streamed forced tool call has parsed input", async () => {
      const stream = streamText({
        ...request,
        prompt: asked.askWeather,
        toolChoice: "required",
        tools: { get_weather: tool({ inputSchema: z.object({ city: z.string() }) }) },
      });
      const [toolCall] = await stream.toolCalls;
      assert.equal(typeof toolCall.input.city, "string");
    });

    test("an object fills a schema", async () => {
      const { object } = await generateObject({ ...request, messages: picture, schema: Reading });
      assert.equal(typeof object.number, "number");
      const output = Output.object({ schema: Reading });
      const whole = await generateText({ ...request, messages: picture, output });
      assert.equal(typeof whole.output.number, "number");
    });

    test("an unknown model is a 404", async () => {
      const options = { ...request, model: provider("another"), prompt: asked.add };
      await assert.rejects(generateText(options), (error) => {
        assert.ok(APICallError.isInstance(error));
        assert.equal(error.statusCode, 404);
        return true;
      });
    });
  });
}
