document.querySelector("switchboard-chat").token = async () => {
  const answer = await fetch("/token.php");
  if (!answer.ok) throw new Error("no token");
  return answer.text();
};
