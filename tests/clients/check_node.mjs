// npm clients: ollama, openai, @anthropic-ai/sdk, and Vercel's ai with an Ollama and an OpenAI-compatible provider.
// Usage: URL CHAT_MODEL TOOL_MODEL EMBED_MODEL; run it where the packages are installed.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [url, chat, tools, embed] = process.argv.slice(2);
const question = "What is the capital of France?";
const messages = [{ role: "user", content: question }];
const models = { chat, tools, embed };
const resolve = createRequire(`${process.cwd()}/package.json`).resolve;
const load = async (name) => import(pathToFileURL(resolve(name)).href);

const { Ollama } = await load("ollama");
const { default: OpenAI } = await load("openai");
const { default: Anthropic } = await load("@anthropic-ai/sdk");
const { generateText, streamText, embedMany, generateObject, jsonSchema, tool } = await load("ai");
const { createOllama } = await load("ollama-ai-provider-v2");
const { createOpenAICompatible } = await load("@ai-sdk/openai-compatible");

const ollama = new Ollama({ host: url });
const openai = new OpenAI({ baseURL: `${url}/v1`, apiKey: "unused", maxRetries: 0 });
const anthropic = new Anthropic({ baseURL: url, apiKey: "unused", maxRetries: 0 });
const vercelOllama = createOllama({ baseURL: `${url}/api` });
const vercelOpenAI = createOpenAICompatible({
  name: "donabe",
  baseURL: `${url}/v1`,
  supportsStructuredOutputs: true,
});

// Closed, so that a small model can't fill a page with properties of its own.
const parameters = {
  type: "object",
  properties: { a: { type: "integer" } },
  required: ["a"],
  additionalProperties: false,
};
const functions = [{ type: "function", function: { name: "add", description: "adds", parameters } }];
const check = (condition, what) => {
  if (!condition) throw new Error(`failed: ${JSON.stringify(what)?.slice(0, 200)}`);
};

async function feature(client, name, needs, run) {
  if (models[needs] === "-") return;
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
  }
  clearTimeout(timer);
  console.log(JSON.stringify(line));
}

const options = { temperature: 0, num_predict: 24 };
await feature("npm ollama", "chat", "chat", async () =>
  check((await ollama.chat({ model: chat, messages, options })).message.content));
await feature("npm ollama", "chat, streamed", "chat", async () => {
  let text = "";
  for await (const part of await ollama.chat({ model: chat, messages, options, stream: true })) text += part.message.content;
  check(text);
});
await feature("npm ollama", "abort", "chat", async () => {
  const stream = await ollama.generate({ model: chat, prompt: question, stream: true, options: { num_predict: 500 } });
  try {
    for await (const _ of stream) stream.abort();
  } catch (error) {
    check(error.name === "AbortError", error);
  }
});
await feature("npm ollama", "generate", "chat", async () =>
  check((await ollama.generate({ model: chat, prompt: question, options })).response));
await feature("npm ollama", "tools", "tools", async () =>
  check((await ollama.chat({ model: tools, messages, tools: functions, options: { num_predict: 64 } })).message.tool_calls));
await feature("npm ollama", "embeddings", "embed", async () =>
  check((await ollama.embed({ model: embed, input: ["a", "b"] })).embeddings.length === 2));
await feature("npm ollama", "list, show, ps", "chat", async () => {
  check((await ollama.list()).models.length);
  check((await ollama.show({ model: chat })).details);
  check((await ollama.ps()).models);
});

await feature("npm openai", "chat", "chat", async () =>
  check((await openai.chat.completions.create({ model: chat, messages, max_tokens: 24 })).choices[0].message.content));
await feature("npm openai", "chat, streamed", "chat", async () => {
  let text = "";
  const stream = await openai.chat.completions.create({ model: chat, messages, max_tokens: 24, stream: true });
  for await (const chunk of stream) text += chunk.choices[0]?.delta?.content ?? "";
  check(text);
});
await feature("npm openai", "tools", "tools", async () =>
  check((await openai.chat.completions.create({ model: tools, messages, tools: functions, max_tokens: 64 })).choices[0].message.tool_calls));
await feature("npm openai", "responses, streamed", "chat", async () => {
  const kinds = [];
  const stream = await openai.responses.create({ model: chat, input: question, max_output_tokens: 24, stream: true });
  for await (const event of stream) kinds.push(event.type);
  check(["response.completed", "response.incomplete"].includes(kinds.at(-1)), kinds);
});
await feature("npm openai", "embeddings", "embed", async () =>
  check((await openai.embeddings.create({ model: embed, input: ["a", "b"] })).data.length === 2));
await feature("npm openai", "list models", "chat", async () => check((await openai.models.list()).data.length));

await feature("npm @anthropic-ai/sdk", "chat", "chat", async () =>
  check((await anthropic.messages.create({ model: chat, max_tokens: 24, messages })).content[0].text));
await feature("npm @anthropic-ai/sdk", "chat, streamed", "chat", async () => {
  const stream = anthropic.messages.stream({ model: chat, max_tokens: 24, messages });
  check(await stream.finalText());
});
await feature("npm @anthropic-ai/sdk", "tools", "tools", async () => {
  const tool = { name: "add", description: "adds", input_schema: parameters };
  const message = await anthropic.messages.create({ model: tools, max_tokens: 64, messages, tools: [tool] });
  check(message.content.some((block) => block.type === "tool_use"), message);
});

for (const [client, provider] of [
  ["npm ai, Ollama provider", vercelOllama],
  ["npm ai, OpenAI-compatible provider", vercelOpenAI],
]) {
  // The Ollama provider sends maxOutputTokens as a field that /api/chat does not have, and would talk on without its own.
  const limits = { ollama: { options: { temperature: 0, num_predict: 64 } } };
  const short = { maxRetries: 0, temperature: 0, maxOutputTokens: 64, providerOptions: limits };
  await feature(client, "chat", "chat", async () =>
    check((await generateText({ model: provider(chat), prompt: question, ...short })).text));
  await feature(client, "chat, streamed", "chat", async () => {
    let text = "";
    const result = streamText({ model: provider(chat), prompt: question, ...short });
    for await (const part of result.textStream) text += part;
    check(text);
  });
  await feature(client, "structured output", "chat", async () => {
    const schema = jsonSchema(parameters);
    const result = await generateObject({ model: provider(chat), schema, prompt: question, ...short });
    check(Number.isInteger(result.object.a), result.object);
  });
  await feature(client, "tools", "tools", async () => {
    const add = tool({ description: "adds", inputSchema: jsonSchema(parameters) });
    const result = await generateText({ model: provider(tools), prompt: question, tools: { add }, ...short });
    check(result.toolCalls.length, result);
  });
  await feature(client, "embeddings", "embed", async () => {
    const model = (provider.textEmbeddingModel ?? provider.embedding)(embed);
    check((await embedMany({ model, values: ["a", "b"], maxRetries: 0 })).embeddings.length === 2);
  });
}
process.exit(0); // also when a request that was given up still holds its connection
