#!lua
-- Publish one batch's messages of one bucket, all or nothing of them, and raise `next`.
--
-- KEYS  life, then log and meta of each stream, then in the global bucket `last`
-- ARGV  epoch, log length, log seconds, beat channel (empty: no beat), number of streams,
--       number of partitions, then
--       for each partition: name, next offset, type of its events
--       for each stream: live channel, number of messages, then
--       for each message: index of its partition (from 1), offset, body
-- Gives the number of messages published of each partition, or 'EPOCH' when the caller's epoch is
-- not this bucket's on this server: nothing was written then.
--
-- Without flags in its first line the script is refused as a whole when Redis is out of memory.
-- Everything that can be refused is read first, so that nothing fails half-way; XADD, which comes
-- first of a message's writes, may be refused and leaves a good prefix.

local epoch = ARGV[1]
local stream_count, partition_count = tonumber(ARGV[5]), tonumber(ARGV[6])

local info = redis.call('INFO', 'server') .. redis.call('INFO', 'replication')
local wanted = {'epoch', 'run_id', 'master_replid'}
local names, types, published = {}, {}, {}
local at = 7
for i = 1, partition_count do
    names[i], types[i], published[i] = ARGV[at], ARGV[at + 2], 0
    wanted[3 + i] = 'n:' .. ARGV[at]
    at = at + 3
end
local life = redis.call('HMGET', KEYS[1], unpack(wanted))
if life[1] ~= epoch
    or life[2] ~= string.match(info, 'run_id:(%w+)')
    or life[3] ~= string.match(info, 'master_replid:(%w+)')
then
    return 'EPOCH'
end

-- What each stream is at: seq, epoch, and offsets by partition's name.
local metas = {}
for s = 1, stream_count do
    local flat = redis.call('HGETALL', KEYS[2 * s + 1])
    local meta = {}
    for i = 1, #flat, 2 do
        meta[flat[i]] = flat[i + 1]
    end
    metas[s] = meta
end

local last_key = KEYS[2 * stream_count + 2]
local last = {}
local refused
for s = 1, stream_count do
    local log, meta = KEYS[2 * s], metas[s]
    local live, count = ARGV[at], tonumber(ARGV[at + 1])
    local before = tonumber(meta.seq or 0)
    local seq, written = before, {}
    local highest = {}
    at = at + 2
    for m = at, at + 3 * (count - 1), 3 do
        local p = tonumber(ARGV[m])
        local offset = tonumber(ARGV[m + 1])
        local high = highest[p]
        if not high then
            high = tonumber(meta['o:' .. names[p]] or -1)
        end
        if offset > high and not refused then
            local message = epoch .. ' ' .. (seq + 1) .. ' ' .. ARGV[m + 2]
            local reply = redis.pcall('XADD', log, 'MAXLEN', '~', ARGV[2], (seq + 1) .. '-0', 'm', message)
            if type(reply) == 'table' and string.find(reply.err, 'equal or smaller', 1, true) then
                -- Somebody removed `meta` and left the log: go on after it, a hole that is seen.
                local stream = redis.call('XINFO', 'STREAM', log)
                for i = 1, #stream, 2 do
                    if stream[i] == 'last-generated-id' then
                        seq = math.max(seq, tonumber(string.match(stream[i + 1], '^%d+')))
                    end
                end
                message = epoch .. ' ' .. (seq + 1) .. ' ' .. ARGV[m + 2]
                reply = redis.pcall('XADD', log, 'MAXLEN', '~', ARGV[2], (seq + 1) .. '-0', 'm', message)
            end
            if type(reply) == 'table' then
                refused = reply
            else
                seq = seq + 1
                highest[p] = offset
                local heard = redis.pcall('SPUBLISH', live, message)
                if type(heard) == 'table' then
                    refused = heard
                end
                published[p] = published[p] + 1
                if last_key then
                    last[types[p]] = message
                end
            end
        end
    end
    at = at + 3 * count
    if seq > before then
        local n = 4
        written[1], written[2], written[3], written[4] = 'epoch', epoch, 'seq', seq
        for p, offset in pairs(highest) do
            written[n + 1], written[n + 2] = 'o:' .. names[p], string.format('%.0f', offset)
            n = n + 2
        end
        if meta.epoch and meta.epoch ~= epoch then
            local forks = {}
            for fork in string.gmatch((meta.fork or '') .. ' ' .. meta.epoch .. ':' .. meta.seq, '%S+') do
                forks[#forks + 1] = fork
            end
            written[n + 1], written[n + 2] = 'fork', table.concat(forks, ' ', math.max(1, #forks - 7))
        end
        redis.call('HSET', KEYS[2 * s + 1], unpack(written))
        redis.call('EXPIRE', log, ARGV[3])
    end
end
for type_, message in pairs(last) do
    redis.call('HSET', last_key, type_, message)
end
if refused then
    return refused
end

local raised = {}
for i = 1, partition_count do
    local next_offset = ARGV[4 + 3 * i + 1]
    if tonumber(next_offset) > tonumber(life[3 + i] or -1) then
        raised[#raised + 1] = 'n:' .. names[i]
        raised[#raised + 1] = next_offset
    end
end
if #raised > 0 then
    redis.call('HSET', KEYS[1], unpack(raised))
end
if ARGV[4] ~= '' then
    redis.call('SPUBLISH', ARGV[4], redis.call('HINCRBY', KEYS[1], 'beat', 1))
end
return published
