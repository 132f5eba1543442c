// Serves one GGUF model as an OpenAI-compatible endpoint on a free loopback port, which it prints.
// It completes one request at a time. A grammar binds the output to the schema of
// `response_format`. It ends when its standard input does.
//
// Usage: node server.mjs MODEL.gguf

import http from "node:http";
import {getLlama, LlamaChatSession, LlamaLogLevel} from "node-llama-cpp";

const CONTEXT_TOKENS = 2048;
const MAX_CHARACTERS = 200; // of a text: without an end in the grammar, a small model finds none

const llama = await getLlama({gpu: false, build: "never", logLevel: LlamaLogLevel.error});
const model = await llama.loadModel({modelPath: process.argv[2]});
// One thread: several wait for each other without sleeping, for seconds a token on a busy machine.
const context = await model.createContext({contextSize: CONTEXT_TOKENS, threads: 1});
const sequence = context.getSequence();

async function complete({messages, response_format: format, max_tokens: maxTokens, temperature}) {
    const schema = format?.json_schema?.schema;
    const grammar = schema && (await llama.createGrammarForJsonSchema(bounded(schema)));
    const [{content: systemPrompt}] = messages;
    await sequence.clearHistory();
    const session = new LlamaChatSession({
        contextSequence: sequence, systemPrompt, autoDisposeSequence: false
    });
    const before = sequence.tokenMeter.getState();
    const options = {grammar, maxTokens, temperature: temperature ?? 0};
    const result = await session.promptWithMeta(messages.at(-1).content, options);
    const used = sequence.tokenMeter.diff(before);
    session.dispose();
    return {
        choices: [{
            message: {role: "assistant", content: result.responseText},
            finish_reason: result.stopReason === "maxTokens" ? "length" : "stop"
        }],
        usage: {prompt_tokens: used.usedInputTokens, completion_tokens: used.usedOutputTokens}
    };
}

// Grammars know no ranges of numbers: a number gets eleven values from its minimum to its maximum.
function bounded(schema) {
    const fields = Object.entries(schema.properties).map(([name, field]) => {
        const {type, minimum, maximum} = field;
        if (type === "string") return [name, {type, maxLength: MAX_CHARACTERS}];
        const values = Array.from({length: 11}, (_, n) => minimum + (maximum - minimum) * n / 10);
        return [name, {enum: values}];
    });
    return {...schema, properties: Object.fromEntries(fields)};
}

let last = Promise.resolve();

const server = http.createServer(async (request, response) => {
    const chunks = await request.toArray();
    let status = 200, body;
    try {
        const asked = JSON.parse(Buffer.concat(chunks).toString("utf8"));
        last = last.catch(() => {}).then(() => complete(asked));
        body = await last;
    } catch (error) {
        [status, body] = [500, {error: {message: String(error)}}];
    }
    response.writeHead(status, {"content-type": "application/json"});
    response.end(JSON.stringify(body));
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
process.stdin.resume().on("end", () => process.exit());
