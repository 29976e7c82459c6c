#!lua
-- Enter a bucket: keep its epoch when `life` names this server and this promotion, else begin one.
-- Whichever relay calls first decides; `next` stays as it is.
--
-- KEYS  life
-- ARGV  the new epoch, should one begin
-- Gives {epoch, 1 if it began now, else 0}.

local info = redis.call('INFO', 'server') .. redis.call('INFO', 'replication')
local run_id = string.match(info, 'run_id:(%w+)')
local replid = string.match(info, 'master_replid:(%w+)')
local life = redis.call('HMGET', KEYS[1], 'epoch', 'run_id', 'master_replid')
if life[1] and life[2] == run_id and life[3] == replid then
    return {life[1], 0}
end
redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'run_id', run_id, 'master_replid', replid)
return {ARGV[1], 1}
