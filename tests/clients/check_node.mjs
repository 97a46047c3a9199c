// npm clients: ollama, openai, @anthropic-ai/sdk, and Vercel's ai with an Ollama and an OpenAI-compatible provider.
// Usage: the JSON object that features.py describes; run it where the packages are installed.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const about = JSON.parse(process.argv[2]);
const { url, chat, tools, embed } = about;
const question = "What is the capital of France?";
const messages = [{ role: "user", content: question }];
const resolve = createRequire(`${process.cwd()}/package.json`).resolve;
const load = async (name) => import(pathToFileURL(resolve(name)).href);

const { Ollama } = await load("ollama");
const { default: OpenAI } = await load("openai");
const { zodResponseFormat, zodTextFormat } = await load("openai/helpers/zod");
const { default: Anthropic } = await load("@anthropic-ai/sdk");
const { generateText, streamText, embedMany, generateObject, jsonSchema, tool } = await load("ai");
const { createOllama } = await load("ollama-ai-provider-v2");
const { createOpenAICompatible } = await load("@ai-sdk/openai-compatible");
const { z } = await load("zod");

const ollama = new Ollama({ host: url });
const openai = new OpenAI({ baseURL: `${url}/v1`, apiKey: "unused", maxRetries: 0 });
const anthropic = new Anthropic({ baseURL: url, apiKey: "unused", maxRetries: 0 });
const vercelOllama = createOllama({ baseURL: `${url}/api` });
const vercelOpenAI = createOpenAICompatible({
  name: "donabe",
  baseURL: `${url}/v1`,
  supportsStructuredOutputs: true,
});

// Closed and bounded, so that a small model can't fill a page with properties or digits of its own.
const parameters = {
  type: "object",
  properties: { a: { type: "integer", minimum: 0, maximum: 99 } },
  required: ["a"],
  additionalProperties: false,
};
const Thing = z.object({ a: z.int().min(0).max(99) });
const functions = [{ type: "function", function: { name: "add", description: "adds", parameters } }];
const anthropicTools = [{ name: "add", description: "adds", input_schema: parameters }];
const image = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGP4DwABAQEANl9ngAAAAABJRU5ErkJggg==";

const check = (condition, what) => {
  if (!condition) throw new Error(`failed: ${JSON.stringify(what)?.slice(0, 200)}`);
};
const checkObject = (value) => {
  const found = typeof value === "string" ? JSON.parse(value) : value;
  check(Object.keys(found).join() === "a" && Number.isInteger(found.a), value);
};
const checkCall = (name, values) => {
  check(name === "add", name);
  checkObject(values);
};
const checkRefused = async (request) => {
  let error;
  try {
    await request;
  } catch (caught) {
    error = caught;
  }
  check(error && /image/.test(error.message), error?.message);
};

async function feature(client, name, run) {
  const line = { client, feature: name };
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error("no end within 60 s")), 60_000);
  });
  try {
    await Promise.race([run(), late]);
    line.ok = true;
  } catch (error) {
    line.ok = false;
    line.error = String(error).slice(0, 300);
    console.error(`${client}, ${name}: ${line.error}`);
  }
  clearTimeout(timer);
  console.log(JSON.stringify(line));
}

const options = { temperature: 0, num_predict: 24 };
await feature("npm ollama", "chat", async () =>
  check((await ollama.chat({ model: chat, messages, options })).message.content));
await feature("npm ollama", "chat, streamed", async () => {
  let text = "";
  for await (const part of await ollama.chat({ model: chat, messages, options, stream: true })) text += part.message.content;
  check(text);
});
await feature("npm ollama", "abort", async () => {
  const stream = await ollama.generate({ model: chat, prompt: question, stream: true, options: { num_predict: 500 } });
  try {
    for await (const _ of stream) stream.abort();
  } catch (error) {
    check(error.name === "AbortError", error);
  }
});
await feature("npm ollama", "generate", async () =>
  check((await ollama.generate({ model: chat, prompt: question, options })).response));
await feature("npm ollama", "generate, raw", async () =>
  check((await ollama.generate({ model: chat, prompt: "1, 2, 3, 4,", raw: true, options })).response));
await feature("npm ollama", "generate, suffix", async () =>
  check((await ollama.generate({ model: about.insert, prompt: "def f(", suffix: "return 1", options })).eval_count));
await feature("npm ollama", "structured output", async () =>
  checkObject((await ollama.chat({ model: chat, messages, options, format: parameters })).message.content));
await feature("npm ollama", "log probabilities", async () =>
  check((await ollama.generate({ model: chat, prompt: "hi", options, logprobs: true, top_logprobs: 2 })).logprobs.length));
await feature("npm ollama", "tools", async () => {
  const [call] = (await ollama.chat({ model: tools, messages, tools: functions })).message.tool_calls;
  checkCall(call.function.name, call.function.arguments);
});
await feature("npm ollama", "tools, streamed", async () => {
  const calls = [];
  for await (const part of await ollama.chat({ model: tools, messages, tools: functions, stream: true }))
    calls.push(...(part.message.tool_calls ?? []));
  check(calls.length === 1, calls);
  checkCall(calls[0].function.name, calls[0].function.arguments);
});
await feature("npm ollama", "thinking", async () =>
  check((await ollama.chat({ model: tools, messages, think: true })).message.thinking));
await feature("npm ollama", "images, refused", () =>
  checkRefused(ollama.chat({ model: chat, messages: [{ ...messages[0], images: [image] }] })));
await feature("npm ollama", "embeddings", async () =>
  check((await ollama.embed({ model: embed, input: ["a", "b"] })).embeddings.length === 2));
await feature("npm ollama", "list, show, ps", async () => {
  check((await ollama.list()).models.length);
  check((await ollama.show({ model: chat })).details);
  check((await ollama.ps()).models);
});
await feature("npm ollama", "keep alive, unload", async () => {
  const isLoaded = async () => (await ollama.ps()).models.some((model) => model.name === `${chat}:latest`);
  await ollama.generate({ model: chat, prompt: "", keep_alive: "5m" });
  check(await isLoaded());
  await ollama.generate({ model: chat, prompt: "", keep_alive: 0 });
  check(!(await isLoaded()));
});
await feature("npm ollama", "copy, delete", async () => {
  await ollama.copy({ source: chat, destination: "copied" });
  check((await ollama.delete({ model: "copied" })).status === "success");
});
await feature("npm ollama", "create", async () => {
  check((await ollama.create({ model: "brief", from: chat, system: "Be brief." })).status === "success");
  check((await ollama.show({ model: "brief" })).system === "Be brief.");
  await ollama.delete({ model: "brief" });
});
await feature("npm ollama", "push, pull", async () => {
  // This client uploads no files: the model comes from one that is there, and need not be big.
  const model = `${about.registry}/library/ollama-js:latest`;
  await ollama.copy({ source: about.rerank, destination: model });
  check((await ollama.push({ model, insecure: true })).status === "success");
  await ollama.delete({ model });
  let last;
  for await (const part of await ollama.pull({ model, insecure: true, stream: true })) last = part.status;
  check(last === "success", last);
  await ollama.delete({ model });
});

const cold = { model: chat, messages, max_tokens: 24, temperature: 0 };
await feature("npm openai", "chat", async () =>
  check((await openai.chat.completions.create(cold)).choices[0].message.content));
await feature("npm openai", "chat, streamed", async () => {
  let text = "";
  for await (const chunk of await openai.chat.completions.create({ ...cold, stream: true }))
    text += chunk.choices[0]?.delta?.content ?? "";
  check(text);
});
await feature("npm openai", "structured output, parsed", async () => {
  const answer = await openai.chat.completions.parse({ ...cold, response_format: zodResponseFormat(Thing, "thing") });
  checkObject(answer.choices[0].message.parsed);
});
await feature("npm openai", "tools", async () => {
  const answer = await openai.chat.completions.create({ model: tools, messages, tools: functions });
  const [call] = answer.choices[0].message.tool_calls;
  checkCall(call.function.name, call.function.arguments);
});
await feature("npm openai", "tools, streamed", async () => {
  const stream = openai.chat.completions.stream({ model: tools, messages, tools: functions });
  const [call] = (await stream.finalMessage()).tool_calls;
  checkCall(call.function.name, call.function.arguments);
});
await feature("npm openai", "forced tool call", async () => {
  const answer = await openai.chat.completions.create({
    ...cold, max_tokens: 64, tools: functions, tool_choice: "required",
  });
  const [call] = answer.choices[0].message.tool_calls;
  checkCall(call.function.name, call.function.arguments);
});
await feature("npm openai", "thinking", async () => {
  const answer = await openai.chat.completions.create({ model: tools, messages, reasoning_effort: "low", max_tokens: 64 });
  check(answer.choices[0].message.reasoning, answer);
});
await feature("npm openai", "images, refused", () => {
  const content = [{ type: "image_url", image_url: { url: `data:image/png;base64,${image}` } }];
  return checkRefused(openai.chat.completions.create({ ...cold, messages: [{ role: "user", content }] }));
});
await feature("npm openai", "responses, streamed", async () => {
  const kinds = [];
  const stream = await openai.responses.create({ model: chat, input: question, max_output_tokens: 24, stream: true });
  for await (const event of stream) kinds.push(event.type);
  check(["response.completed", "response.incomplete"].includes(kinds.at(-1)), kinds);
});
await feature("npm openai", "responses, parsed", async () => {
  const text = { format: zodTextFormat(Thing, "thing") };
  const answer = await openai.responses.parse({ model: chat, input: question, text, max_output_tokens: 24, temperature: 0 });
  checkObject(answer.output_parsed);
});
await feature("npm openai", "responses, tools", async () => {
  const flat = [{ type: "function", name: "add", parameters, strict: false }];
  const { output } = await openai.responses.create({ model: tools, input: question, tools: flat });
  const call = output.find((item) => item.type === "function_call");
  checkCall(call.name, call.arguments);
});
await feature("npm openai", "embeddings", async () =>
  check((await openai.embeddings.create({ model: embed, input: ["a", "b"] })).data.length === 2));
await feature("npm openai", "list models", async () => check((await openai.models.list()).data.length));

const short = { model: chat, max_tokens: 24, messages };
const thinking = { type: "enabled", budget_tokens: 1024 };
await feature("npm @anthropic-ai/sdk", "chat", async () =>
  check((await anthropic.messages.create(short)).content[0].text));
await feature("npm @anthropic-ai/sdk", "chat, streamed", async () =>
  check(await anthropic.messages.stream(short).finalText()));
await feature("npm @anthropic-ai/sdk", "structured output", async () => {
  const output_config = { format: { type: "json_schema", schema: parameters } };
  checkObject((await anthropic.messages.create({ ...short, output_config })).content[0].text);
});
await feature("npm @anthropic-ai/sdk", "tools", async () => {
  const message = await anthropic.messages.create({ model: tools, max_tokens: 64, messages, tools: anthropicTools });
  const call = message.content.find((block) => block.type === "tool_use");
  checkCall(call.name, call.input);
});
await feature("npm @anthropic-ai/sdk", "tools, streamed", async () => {
  const stream = anthropic.messages.stream({ model: tools, max_tokens: 64, messages, tools: anthropicTools });
  const call = (await stream.finalMessage()).content.find((block) => block.type === "tool_use");
  checkCall(call.name, call.input);
});
await feature("npm @anthropic-ai/sdk", "forced tool call", async () => {
  const request = { ...short, max_tokens: 64, tools: anthropicTools, tool_choice: { type: "any" } };
  const call = (await anthropic.messages.create(request)).content.find((block) => block.type === "tool_use");
  checkCall(call.name, call.input);
});
await feature("npm @anthropic-ai/sdk", "thinking", async () => {
  const [first] = (await anthropic.messages.create({ model: tools, max_tokens: 1100, messages, thinking })).content;
  check(first.type === "thinking" && first.thinking, first);
});
await feature("npm @anthropic-ai/sdk", "images, refused", () => {
  const content = [{ type: "image", source: { type: "base64", media_type: "image/png", data: image } }];
  return checkRefused(anthropic.messages.create({ ...short, messages: [{ role: "user", content }] }));
});
await feature("npm @anthropic-ai/sdk", "count tokens", async () =>
  check((await anthropic.messages.countTokens({ model: chat, messages })).input_tokens));

for (const [client, provider, thinks] of [
  ["npm ai, Ollama provider", vercelOllama, { ollama: { think: true } }],
  ["npm ai, OpenAI-compatible provider", vercelOpenAI, { donabe: { reasoningEffort: "low" } }],
]) {
  // The Ollama provider sends maxOutputTokens as a field that /api/chat does not have, and would talk on without its own.
  const limits = { ollama: { options: { temperature: 0, num_predict: 64 } } };
  const brief = { maxRetries: 0, temperature: 0, maxOutputTokens: 64, providerOptions: limits, prompt: question };
  const add = tool({ description: "adds", inputSchema: jsonSchema(parameters) });
  await feature(client, "chat", async () =>
    check((await generateText({ model: provider(chat), ...brief })).text));
  await feature(client, "chat, streamed", async () => {
    let text = "";
    for await (const part of streamText({ model: provider(chat), ...brief }).textStream) text += part;
    check(text);
  });
  await feature(client, "structured output", async () =>
    checkObject((await generateObject({ model: provider(chat), schema: jsonSchema(parameters), ...brief })).object));
  await feature(client, "tools", async () => {
    const [call] = (await generateText({ model: provider(tools), tools: { add }, ...brief })).toolCalls;
    checkCall(call.toolName, call.input);
  });
  await feature(client, "tools, streamed", async () => {
    const [call] = await streamText({ model: provider(tools), tools: { add }, ...brief }).toolCalls;
    checkCall(call.toolName, call.input);
  });
  await feature(client, "thinking", async () => {
    const providerOptions = { ...thinks, ollama: { ...limits.ollama, ...thinks.ollama } };
    check((await generateText({ model: provider(tools), ...brief, providerOptions })).reasoningText);
  });
  await feature(client, "embeddings", async () => {
    const model = (provider.textEmbeddingModel ?? provider.embedding)(embed);
    check((await embedMany({ model, values: ["a", "b"], maxRetries: 0 })).embeddings.length === 2);
  });
}
process.exit(0); // also when a request that was given up still holds its connection
